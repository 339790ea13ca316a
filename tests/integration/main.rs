//! Integration tests: golden numbers, the public command line, and real peers. One module an area.

mod config;
mod crops;
mod data;
mod golden;
mod run;
mod seen;
mod weights;
mod workshop;
