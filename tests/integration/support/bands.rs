//! Drawn images with masks and depths.

use std::fs;

use super::workshop::Workshop;

/// Seven images of two bands whose colour says what they are: three classes, or three depths.
pub fn draw(workshop: &Workshop) {
    for folder in ["images", "masks", "depths"] {
        fs::create_dir_all(workshop.path(folder)).unwrap();
    }
    for number in 0..7u32 {
        let (width, height) = (70 + 9 * (number % 3), 66 + 5 * (number % 2));
        let band = |x: u32, y: u32| if y * 2 < height + 8 * (number % 3) { x / 30 % 2 } else { 2 };
        let colour = [[230, 30, 30], [20, 210, 60], [30, 40, 220]];
        let name = |folder: &str| workshop.path(&format!("{folder}/{number}.png"));
        image::RgbImage::from_fn(width, height, |x, y| {
            image::Rgb(
                colour[band(x, y) as usize].map(|level: u8| level.wrapping_add((x * y % 17) as u8)),
            )
        })
        .save(name("images"))
        .unwrap();
        let mask = |x, y| image::Luma([if (x, y) == (0, 0) { 255 } else { band(x, y) as u8 }]);
        image::GrayImage::from_fn(width, height, mask).save(name("masks")).unwrap();
        let depth = |x, y| image::Luma([[1000u16, 2500, 6000][band(x, y) as usize]]);
        let depth: image::ImageBuffer<image::Luma<u16>, Vec<u16>> =
            image::ImageBuffer::from_fn(width, height, depth);
        depth.save(name("depths")).unwrap();
    }
    fs::write(workshop.path("train.txt"), list("masks", 0..5)).unwrap();
    fs::write(workshop.path("test.txt"), list("masks", 5..7)).unwrap();
    fs::write(workshop.path("depth_train.txt"), list("depths", 0..5)).unwrap();
    fs::write(workshop.path("depth_test.txt"), list("depths", 5..7)).unwrap();
}

fn list(folder: &str, numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| format!("images/{number}.png {folder}/{number}.png\n")).collect()
}
