//! Tar shards: the samples of WebDataset, from one pass over the headers.

use std::fmt::Display;
use std::io::{Read, Seek};

use anyhow::{Result, bail, ensure};
use webdataset::core::base_plus_ext;

use crate::source::ReadSeek;

use super::index::{FieldColumn, NO_LABEL, ShardIndex};
use super::shard_format::ShardFormat;
use super::tar_members::{Content, Ending, Member, TarMembers, begins_tar};
use crate::source::is_image_extension;

/// Tar files, by WebDataset's rules.
///
/// A sample is a run of members with one key: the path up to the first dot of its last part. What
/// follows that dot is a member's extension. A sample's image is its first member whose extension is
/// an image's and that is no field, its label the number in `.cls`.
pub struct Tar;

impl ShardFormat for Tar {
    fn name(&self) -> &'static str {
        "tar"
    }

    fn recognise(&self, beginning: &[u8]) -> Result<()> {
        begins_tar(beginning)
    }

    fn index(
        &self,
        shard: &mut dyn ReadSeek,
        length: u64,
        fields: &[String],
        name: &dyn Display,
    ) -> Result<ShardIndex> {
        let mut members = TarMembers::new(shard, length);
        let mut grouping = Grouping::new(fields);
        while let Some(member) = members.next()? {
            grouping.add(member, &mut members)?;
        }
        grouping.ending = members.ending()?;
        let grouping = grouping.finish()?;
        grouping.warn(name);
        Ok(grouping.index)
    }
}

/// Gathers members into samples.
#[derive(Default)]
struct Grouping<'a> {
    /// Extensions of the fields that are looked for.
    fields: &'a [String],
    index: ShardIndex,
    key: String,
    /// Name, offset and size of the current sample's image.
    image: Option<(String, u64, u32)>,
    label: Option<u32>,
    /// Offset and size of the current sample's fields.
    found: Vec<Option<(u64, u32)>>,
    members: usize,
    second_images: usize,
    bad_labels: usize,
    dotted: Option<String>,
    /// Images, labels and fields that are sparse or links.
    elsewhere: usize,
    first_elsewhere: Option<String>,
    ending: Ending,
}

fn parse_label(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.trim().parse().ok().filter(|&label| label != NO_LABEL)
}

impl<'a> Grouping<'a> {
    fn new(fields: &'a [String]) -> Self {
        let index =
            ShardIndex { fields: vec![FieldColumn::default(); fields.len()], ..Default::default() };
        Self { fields, index, found: vec![None; fields.len()], ..Self::default() }
    }

    fn add(&mut self, member: Member, members: &mut TarMembers<impl Read + Seek>) -> Result<()> {
        if member.content == Content::None {
            return Ok(());
        }
        self.members += 1;
        let Some((key, extension)) = base_plus_ext(&member.name) else { return Ok(()) };
        if key != self.key {
            self.close();
            self.key = key.to_string();
        }
        let size = u32::try_from(member.size).unwrap_or(u32::MAX);
        let field = self.fields.iter().position(|field| field.eq_ignore_ascii_case(extension));
        let is_image = is_image_extension(extension);
        if field.is_none() && !is_image && extension != "cls" {
            if extension.rsplit_once('.').is_some_and(|(_, last)| is_image_extension(last)) {
                self.dotted.get_or_insert(member.name);
            }
        } else if member.content != Content::Plain {
            self.elsewhere += 1;
            self.first_elsewhere.get_or_insert(member.name);
        } else if let Some(field) = field {
            self.found[field].get_or_insert((member.start, size));
        } else if !is_image {
            self.label = parse_label(&members.beginning(&member, 64)?);
            self.bad_labels += usize::from(self.label.is_none());
        } else if self.image.is_some() {
            self.second_images += 1;
        } else {
            self.image = Some((member.name, member.start, size));
        }
        Ok(())
    }

    fn close(&mut self) {
        let label = self.label.take();
        if let Some((name, offset, size)) = self.image.take() {
            self.index.offsets.push(offset);
            self.index.sizes.push(size);
            self.index.labels.push(label.unwrap_or(NO_LABEL));
            self.index.names.extend(name.as_bytes());
            self.index.name_ends.push(self.index.names.len() as u32);
            for (column, found) in self.index.fields.iter_mut().zip(&self.found) {
                column.push(*found);
            }
        }
        self.found.fill(None);
    }

    fn finish(mut self) -> Result<Self> {
        self.close();
        if self.index.rows() == 0 {
            let hint = self.dotted.map_or(String::new(), |name| {
                format!("; a key ends at the first dot, so `{name}` does not count as an image")
            });
            bail!("no image (.jpg, .jpeg, .png, .webp) among its {} members{hint}", self.members);
        }
        ensure!(
            self.index.names.len() < u32::MAX as usize,
            "its member names take over 4 GiB; split the shard"
        );
        Ok(self)
    }

    fn warn(&self, shard: &dyn Display) {
        if self.second_images > 0 {
            tracing::warn!(
                "{shard}: {} images share their key with one before them and are left out",
                self.second_images
            );
        }
        for (field, column) in self.fields.iter().zip(&self.index.fields) {
            let without = column.sizes.iter().filter(|&&size| size == 0).count();
            if without > 0 {
                tracing::warn!("{shard}: {without} images have no `.{field}` member beside them");
            }
        }
        if self.bad_labels > 0 {
            tracing::warn!("{shard}: {} .cls members are not a class number", self.bad_labels);
        }
        if let Some(first) = &self.first_elsewhere {
            tracing::warn!(
                "{shard}: {} images or labels are stored as sparse files or as links, and are \
                 left out; the first is member `{first}`",
                self.elsewhere
            );
        }
        match self.ending {
            Ending::Marked => {}
            Ending::Unmarked => tracing::warn!(
                "{shard}: the mark of its end is missing after {} members: either its writer was \
                 careless, or it is cut off there",
                self.members
            ),
            Ending::Followed(byte) => tracing::warn!(
                "{shard}: what follows the mark of its end, from byte {byte} on, is not read; are \
                 these several tar files in one?"
            ),
        }
    }
}
