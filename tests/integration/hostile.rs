//! Input that nobody vouches for: tar files and images that are odd, damaged or made to harm.

mod damage;
mod images;
mod tars;
