//! Integration tests: golden numbers, the public command line, and real peers.

mod golden;
