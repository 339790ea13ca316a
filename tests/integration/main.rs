//! Tests of the whole, area by area.

mod weights;
