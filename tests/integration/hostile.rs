//! Input that nobody vouches for: tar files and pictures that are odd, damaged or made to harm.

mod damage;
mod pictures;
mod tars;
