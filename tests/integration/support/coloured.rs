//! Shards of a class that anybody sees.

use distill::draws::{Draws, Purpose};

use super::exported::png;
use super::workshop::Workshop;

/// Shards whose classes show in the images' colours: `count` images sorted by class.
pub fn coloured(workshop: &Workshop, name: &str, count: u32, seed: u64) {
    let mut draws = Draws::new(seed, Purpose::Crop, 0, 0);
    let mut members = Vec::new();
    for number in 0..count {
        let class = number * 3 / count;
        let colour = [[200, 40, 40], [40, 200, 40], [60, 60, 220]][class as usize];
        let bytes = png(80, |_, _| colour.map(|level: u8| level - 30 + draws.below(60) as u8));
        members.push((format!("{number:03}.png"), bytes));
        members.push((format!("{number:03}.cls"), class.to_string().into_bytes()));
    }
    workshop.shard(name, &members);
}
