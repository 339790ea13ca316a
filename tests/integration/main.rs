//! Integration tests: golden numbers, the public command line, and real peers. One module an area.

mod bench;
mod checkpoints;
mod config;
mod crops;
mod data;
mod data_cli;
mod dist;
mod golden;
mod hostile;
mod launch;
mod many;
mod peer;
mod preview;
mod run;
mod seen;
mod sources;
mod weights;
mod workers;
mod workshop;
