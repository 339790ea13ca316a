//! Tar shards: the samples of WebDataset, from one pass over the headers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Read, Seek};

use anyhow::{Result, bail, ensure};
use webdataset::core::base_plus_ext;

use crate::source::ReadSeek;

use super::index::{FieldColumn, NO_LABEL, ShardIndex};
use super::shard_format::ShardFormat;
use super::tar_members::{Content, Ending, Member, TarMembers, begins_tar};
use crate::source::{NOT_READ, is_image_extension, kinds_left_out};

/// Tar files, by WebDataset's rules.
///
/// A sample's members have one key: the path up to the first dot of its last part. What follows that dot is
/// a member's extension. A sample's image is the first member of a run of its key whose extension is an image's
/// and that is no field; fields stand in the same run, its label, the number in `.cls`, anywhere in the shard. A key
/// without such a member whose members look like images is an image each: names may have dots.
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
    ) -> Result<ShardIndex> {
        let mut members = TarMembers::new(shard, length);
        let mut grouping = Grouping::new(fields);
        while let Some(member) = members.next()? {
            grouping.add(member, &mut members)?;
        }
        grouping.ending = members.ending()?;
        grouping.finish()
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
    /// Labels that stand apart from their image, by key.
    apart: HashMap<String, u32>,
    /// How many `.cls` members are no number, and the first of them.
    bad_labels: usize,
    first_bad_label: Option<String>,
    /// Members that look like images by their last ending, of the current key: name, offset and size.
    dotted: Vec<(String, u64, u32)>,
    /// Images of kinds that are not read, by their ending.
    not_read: BTreeMap<String, usize>,
    /// Images, labels and fields that are sparse or links.
    elsewhere: usize,
    first_elsewhere: Option<String>,
    ending: Ending,
}

/// A class number: digits, perhaps behind the mark that some editors write, perhaps with `.0` behind them.
fn parse_label(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?.trim_start_matches('\u{feff}').trim();
    let digits = text.split_once('.').map_or(text, |(whole, rest)| {
        if !rest.is_empty() && rest.bytes().all(|byte| byte == b'0') { whole } else { text }
    });
    digits.parse().ok().filter(|&label| label != NO_LABEL)
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
        let is_label = extension.eq_ignore_ascii_case("cls");
        if field.is_none() && !is_image && !is_label {
            let last = extension.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
            if NOT_READ.contains(&&*last) {
                *self.not_read.entry(last).or_default() += 1;
            } else if extension.contains('.') && is_image_extension(&last) {
                self.dotted.push((member.name, member.start, size));
            }
        } else if member.content != Content::Plain {
            self.elsewhere += 1;
            self.first_elsewhere.get_or_insert(member.name);
        } else if let Some(field) = field {
            self.found[field].get_or_insert((member.start, size));
        } else if !is_image {
            let text = members.beginning(&member, 64)?;
            self.label = parse_label(&text);
            if self.label.is_none() {
                self.bad_labels += 1;
                let text = String::from_utf8_lossy(&text).trim().to_string();
                let example = || format!("`{}` is {text:?}", member.name);
                self.first_bad_label.get_or_insert_with(example);
            }
        } else if self.image.is_some() {
            self.second_images += 1;
        } else {
            self.image = Some((member.name, member.start, size));
        }
        Ok(())
    }

    fn close(&mut self) {
        let label = self.label.take();
        let dotted = std::mem::take(&mut self.dotted);
        if let Some(image) = self.image.take() {
            self.push(image, label);
        } else {
            if let Some(label) = label {
                self.apart.insert(self.key.clone(), label);
            }
            // `v1.5.jpg` and `v1.6.jpg` share a key that nobody meant.
            let found = std::mem::replace(&mut self.found, vec![None; self.fields.len()]);
            dotted.into_iter().for_each(|image| self.push(image, None));
            self.found = found;
        }
        self.found.fill(None);
    }

    /// Adds the sample of an image, with the fields that were found.
    fn push(&mut self, (name, offset, size): (String, u64, u32), label: Option<u32>) {
        self.index.offsets.push(offset);
        self.index.sizes.push(size);
        self.index.labels.push(label.unwrap_or(NO_LABEL));
        self.index.names.extend(name.as_bytes());
        self.index.name_ends.push(self.index.names.len() as u32);
        for (column, found) in self.index.fields.iter_mut().zip(&self.found) {
            column.push(*found);
        }
    }

    fn finish(mut self) -> Result<ShardIndex> {
        self.close();
        if self.index.rows() == 0 {
            bail!("no image (.jpg, .jpeg, .png, .webp) among its {} members", self.members);
        }
        ensure!(
            self.index.names.len() < u32::MAX as usize,
            "its member names take over 4 GiB; split the shard"
        );
        self.take_labels_apart();
        let notes = self.notes();
        Ok(ShardIndex { notes, ..self.index })
    }

    /// Gives labels that stand apart to the images of their keys; what is left has none.
    fn take_labels_apart(&mut self) {
        if self.apart.is_empty() {
            return;
        }
        let mut taken = HashSet::new();
        for row in 0..self.index.rows() {
            let key = base_plus_ext(self.index.name(row)).map(|(key, _)| key.to_string());
            let Some((key, label)) =
                key.and_then(|key| Some((key.clone(), *self.apart.get(&key)?)))
            else {
                continue;
            };
            if self.index.labels[row] == NO_LABEL {
                self.index.labels[row] = label;
            }
            taken.insert(key);
        }
        self.apart.retain(|key, _| !taken.contains(key));
    }

    /// What is odd about the shard.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.second_images > 0 {
            notes.push(format!(
                "{} images share their key with one before them and are left out",
                self.second_images
            ));
        }
        for (field, column) in self.fields.iter().zip(&self.index.fields) {
            let without = column.sizes.iter().filter(|&&size| size == 0).count();
            if without > 0 {
                notes.push(format!("{without} images have no `.{field}` member beside them"));
            }
        }
        if let Some(example) = &self.first_bad_label {
            notes.push(format!(
                "{} .cls members are not a class number and are not read; {example}, expected a number",
                self.bad_labels
            ));
        }
        if let Some(key) = self.apart.keys().min() {
            notes.push(format!(
                "{} .cls members have no image of their key; one is `{key}.cls`",
                self.apart.len()
            ));
        }
        let labelled = self.index.labelled();
        if labelled > 0 && labelled < self.index.rows() && self.first_bad_label.is_none() {
            notes.push(format!(
                "{} of {} images have no label",
                self.index.rows() - labelled,
                self.index.rows()
            ));
        }
        if !self.not_read.is_empty() {
            notes.push(kinds_left_out(&self.not_read));
        }
        if let Some(first) = &self.first_elsewhere {
            notes.push(format!(
                "{} images or labels are stored as sparse files or as links, and are left out; the first is \
                 member `{first}`",
                self.elsewhere
            ));
        }
        match self.ending {
            Ending::Marked => {}
            Ending::Unmarked => notes.push(format!(
                "the mark of its end is missing after {} members: either its writer was careless, or it is \
                 cut off there",
                self.members
            )),
            Ending::Followed(byte) => notes.push(format!(
                "what follows the mark of its end, from byte {byte} on, is not read; are these several tar \
                 files in one?"
            )),
        }
        notes
    }
}
