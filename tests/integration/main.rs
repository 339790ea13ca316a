//! Integration tests: one crate, one module for each area.

mod crops;
mod data;
mod data_cli;
