//! Tests of the program as a whole, one module an area.

mod seen;
