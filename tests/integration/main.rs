//! Integration tests: golden numbers, the public command line, and real peers. One module an area.

mod bench;
mod checkpoints;
mod config;
mod crops;
mod data;
mod data_cli;
mod device;
mod dist;
mod drop_path;
mod golden;
mod hostile;
mod kernels;
mod launch;
mod many;
mod peer;
mod pretrain;
mod preview;
mod recompute;
mod run;
mod seen;
mod sources;
mod step;
mod teacher;
mod weights;
mod workers;
mod workshop;
