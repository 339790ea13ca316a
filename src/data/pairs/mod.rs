//! Pairs of an image and a dense target in files of their own: depth and segmentation data sets as they
//! lie on users' disks.
//!
//! A [`PairSource`] says where they are: one of the [known](KnownSet) data sets below a root, or a
//! description of one's own. It [opens](PairSource::open) as a [`PairSet`], whose lists are made,
//! counted and checked, and that gives a [`Dataset`](crate::Dataset) for training or test.

mod check;
mod known;
mod list;
mod masks;
mod own;
mod set;
mod source;

pub use known::KnownSet;
pub use list::{Pair, Split};
pub use masks::{MaskForm, masks_of};
pub use own::{OwnSet, OwnSplit, OwnTask};
pub use set::{PairSet, PairTask, TARGET};
pub use source::{KnownSource, PairSource};
