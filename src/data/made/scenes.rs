//! Drawn rooms with their exact depth.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image::{ImageBuffer, Luma, Rgb, RgbImage};
use rayon::prelude::*;

use distill_base::draws::{Draws, Purpose};

use super::room::{Room, sum};
use super::{file_of, folder_of, make_folder};

/// What rooms are drawn.
#[derive(Debug, Clone)]
pub struct ScenesOptions {
    /// Folder for the pairs, which must not exist.
    pub out: PathBuf,
    /// Rooms of each split.
    pub rooms: [usize; 2],
    /// Side of the images, in pixels.
    pub side: u32,
    pub seed: u64,
}

/// Stored depth of a metre.
const MILLIMETRES: f64 = 1000.0;

type DepthMap = ImageBuffer<Luma<u16>, Vec<u16>>;

/// Writes `{train,test}/{images,depth}/NNNNNN.png`: RGB images, and 16-bit depths in millimetres, the distance
/// along the camera's axis at each pixel's centre. A room follows from seed, split and number alone.
///
/// # Errors
/// The folder exists, or cannot be written.
pub fn scenes(options: &ScenesOptions) -> Result<()> {
    let ScenesOptions { out, rooms, side, seed } = options;
    ensure!(*side > 0 && rooms[0] > 0 && rooms[1] > 0, "found 0 rooms or pixels, expected some");
    make_folder(out, |folder| {
        for (split, &rooms) in rooms.iter().enumerate() {
            let [images, depths] = ["images", "depth"].map(|name| folder_of(folder, split, name));
            let (images, depths) = (images?, depths?);
            (0..rooms).into_par_iter().try_for_each(|number| {
                let draws = &mut Draws::new(*seed, Purpose::Scene, split as u64, number as u64);
                let (image, depth) = render(&Room::drawn(draws), *side);
                let fail = |path: &Path| format!("cannot write {}", path.display());
                let path = file_of(&images, number);
                image.save(&path).with_context(|| fail(&path))?;
                let path = file_of(&depths, number);
                depth.save(&path).with_context(|| fail(&path))
            })?;
        }
        Ok(())
    })
}

/// The image of a room, each pixel the mean of four rays, and its depth, at each pixel's centre. The camera sees
/// 53 degrees.
fn render(room: &Room, side: u32) -> (RgbImage, DepthMap) {
    let place = |pixel: u32, part: f64| (f64::from(pixel) + part) / f64::from(side) - 0.5;
    let colour = |x, y| {
        let parts = [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]];
        let rays = parts.map(|[right, down]| room.look(place(x, right), place(y, down)).colour);
        let sum = rays.into_iter().fold([0.0; 3], sum);
        Rgb(sum.map(|level| (255.0 * level / 4.0).round() as u8))
    };
    let depth = |x, y| {
        let metres = room.look(place(x, 0.5), place(y, 0.5)).depth;
        Luma([(MILLIMETRES * metres).round() as u16])
    };
    (RgbImage::from_fn(side, side, colour), ImageBuffer::from_fn(side, side, depth))
}

#[cfg(test)]
mod tests {
    use image::GenericImageView;

    use super::*;

    fn made(rooms: [usize; 2], seed: u64) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("scenes");
        scenes(&ScenesOptions { out: out.clone(), rooms, side: 24, seed }).unwrap();
        (folder, out)
    }

    fn bytes(out: &Path, name: &str) -> Vec<u8> {
        std::fs::read(out.join(name)).unwrap()
    }

    /// A room is the same whatever is drawn beside it, another one in the other split and with another seed.
    #[test]
    fn a_room_follows_from_its_number() {
        let (_one, one) = made([3, 2], 5);
        let (_two, two) = made([9, 1], 5);
        for name in ["train/images/000002.png", "train/depth/000002.png", "test/images/000000.png"]
        {
            assert_eq!(bytes(&one, name), bytes(&two, name), "{name}");
        }
        assert_ne!(bytes(&one, "train/images/000000.png"), bytes(&one, "test/images/000000.png"));
        assert_ne!(bytes(&one, "train/images/000000.png"), bytes(&one, "train/images/000001.png"));
        let (_three, three) = made([3, 2], 6);
        assert_ne!(bytes(&one, "train/depth/000000.png"), bytes(&three, "train/depth/000000.png"));
        assert!(!one.join("train/images/000003.png").exists());
    }

    /// The stored depth is that of the ray through the pixel's centre, to the millimetre.
    #[test]
    fn stored_depths_are_those_of_the_rays() {
        let (_folder, out) = made([1, 1], 7);
        let depth = image::open(out.join("train/depth/000000.png")).unwrap();
        assert_eq!((depth.color(), depth.dimensions()), (image::ColorType::L16, (24, 24)));
        let room = Room::drawn(&mut Draws::new(7, Purpose::Scene, 0, 0));
        for (x, y, stored) in depth.into_luma16().enumerate_pixels() {
            let [x, y] = [x, y].map(|pixel| (f64::from(pixel) + 0.5) / 24.0 - 0.5);
            let metres = f64::from(stored.0[0]) / MILLIMETRES;
            assert!((metres - room.look(x, y).depth).abs() <= 0.000_501);
        }
    }
}
