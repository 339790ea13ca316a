//! Many processes: `distill launch`, other launchers, and the job script for Slurm.

mod child;
mod endings;
mod launchers;
mod output;
mod program;
mod slurm;
mod training;
