//! Tar shards: the samples of WebDataset, from one pass over the headers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Read, Seek};

use anyhow::{Result, bail, ensure};
use webdataset::core::base_plus_ext;

use crate::labels::{MOST_LABEL_BYTES, NO_LABEL, Wanted, hint};
use crate::source::ReadSeek;

use super::content;
use super::index::{FieldColumn, ShardIndex};
use super::shard_format::ShardFormat;
use super::tar_members::{Content, Ending, Member, TarMembers, begins_tar};
use crate::source::{
    IMAGE_MARK, NOT_READ, TEXTS, begins_image, is_image_extension, kinds_left_out,
};

/// Tar files, by WebDataset's rules.
///
/// A sample's members have one key: the path up to the first dot of its last part. What follows that dot is
/// a member's extension. A sample's image is the first member of a run of its key whose extension is an image's
/// and that is no field; fields stand in the same run, its label ([`crate::labels::LabelRule`]) anywhere in the shard. A key
/// without such a member whose members look like images is an image each: names may have dots.
pub struct Tar;

impl ShardFormat for Tar {
    fn name(&self) -> &'static str {
        "tar"
    }

    fn recognise(&self, beginning: &[u8]) -> Result<()> {
        begins_tar(beginning)
    }

    fn index(&self, shard: &mut dyn ReadSeek, length: u64, wanted: &Wanted) -> Result<ShardIndex> {
        let mut members = TarMembers::new(shard, length);
        let mut grouping = Grouping::new(wanted);
        while let Some(member) = members.next()? {
            grouping.add(member, &mut members)?;
        }
        grouping.ending = members.ending()?;
        grouping.finish()
    }
}

/// Members of other extensions that are read for a hint where classes stand, and bytes of each.
const MOST_HINTS: usize = 8;
const MOST_HINT_BYTES: u64 = 1 << 16;

/// Other endings of which a member is looked into.
const MOST_LOOKED_INTO: usize = 16;

/// Endings of numbers as Python's programs keep them: pickled, or as arrays.
const SERIALISED: [&str; 14] = [
    "cbor", "mp", "msg", "msgpack", "npy", "npz", "pickle", "pkl", "pt", "pth", "pyd", "tb", "ten",
    "tensor",
];

/// Where a class seems to stand.
struct LabelHint {
    member: String,
    said: String,
    /// As `data.label` has it.
    label: String,
}

/// What is known of a label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Label {
    #[default]
    None,
    Class(u32),
    /// Several members say different classes.
    Contradicting,
}

impl Label {
    /// Another member says a class.
    fn add(&mut self, class: u32) {
        self.join(Self::Class(class));
    }

    fn join(&mut self, other: Self) {
        *self = match (*self, other) {
            (Self::None, one) | (one, Self::None) => one,
            (one, other) if one == other => one,
            _ => Self::Contradicting,
        };
    }

    fn number(self) -> u32 {
        match self {
            Self::Class(class) => class,
            Self::None | Self::Contradicting => NO_LABEL,
        }
    }
}

/// A name without its last ending.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Gathers members into samples.
struct Grouping<'a> {
    wanted: &'a Wanted,
    index: ShardIndex,
    key: String,
    /// Name, offset and size of the current sample's image.
    image: Option<(String, u64, u32)>,
    label: Label,
    /// Offset and size of the current sample's fields.
    found: Vec<Option<(u64, u32)>>,
    members: usize,
    second_images: usize,
    /// Labels that stand apart from their image, by their names without the last ending.
    apart: HashMap<String, Label>,
    /// Images whose labels contradict each other, or may be another's of the same key.
    contradicting: BTreeSet<usize>,
    /// How many members say no class that should, and the first of them.
    bad_labels: usize,
    first_bad_label: Option<String>,
    /// Where else a class seems to stand: a member, and what it says.
    hint: Option<LabelHint>,
    hints_looked_for: usize,
    /// Members that look like images by their last ending, of the current key: name, offset and size.
    dotted: Vec<(String, u64, u32)>,
    /// Images of kinds that are not read, by their ending.
    not_read: BTreeMap<String, usize>,
    /// Other endings that members were looked into for.
    looked_into: BTreeSet<String>,
    /// A member of an ending that programs keep numbers in which are not read here.
    serialised: Option<String>,
    /// Images, labels and fields that are sparse or links.
    elsewhere: usize,
    first_elsewhere: Option<String>,
    ending: Ending,
    /// Of the images so far: how many, and bytes of some of them.
    images: u64,
    content: blake3::Hasher,
}

impl<'a> Grouping<'a> {
    fn new(wanted: &'a Wanted) -> Self {
        let fields = wanted.fields.len();
        Self {
            wanted,
            index: ShardIndex {
                fields: vec![FieldColumn::default(); fields],
                ..Default::default()
            },
            key: String::new(),
            image: None,
            label: Label::None,
            found: vec![None; fields],
            members: 0,
            second_images: 0,
            apart: HashMap::new(),
            contradicting: BTreeSet::new(),
            bad_labels: 0,
            first_bad_label: None,
            hint: None,
            hints_looked_for: 0,
            dotted: Vec::new(),
            not_read: BTreeMap::new(),
            looked_into: BTreeSet::new(),
            serialised: None,
            elsewhere: 0,
            first_elsewhere: None,
            ending: Ending::default(),
            images: 0,
            content: blake3::Hasher::new(),
        }
    }

    fn add(&mut self, member: Member, members: &mut TarMembers<impl Read + Seek>) -> Result<()> {
        if member.content == Content::None {
            return Ok(());
        }
        self.members += 1;
        let Some((key, extension)) = base_plus_ext(&member.name) else {
            return self.look_into("", &member, members);
        };
        if key != self.key {
            self.close();
            self.key = key.to_string();
        }
        let size = u32::try_from(member.size).unwrap_or(u32::MAX);
        let Wanted { fields, label } = self.wanted;
        let field = fields.iter().position(|field| field.eq_ignore_ascii_case(extension));
        let is_image = is_image_extension(extension);
        let is_label = extension.eq_ignore_ascii_case(label.extension());
        let last = extension.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        let is_dotted_label = extension.contains('.') && last == label.extension();
        if field.is_none() && is_dotted_label && member.content == Content::Plain {
            // `v1.5.cls` belongs to `v1.5.jpg`.
            if let Some(class) = self.class_of(&member, members)? {
                let stem = stem(&member.name).to_string();
                self.apart.entry(stem).or_default().add(class);
            }
        } else if field.is_none() && !is_image && !is_label {
            if NOT_READ.contains(&&*last) {
                *self.not_read.entry(last).or_default() += 1;
            } else if extension.contains('.') && is_image_extension(&last) {
                self.note_content(&member, members)?;
                self.dotted.push((member.name, member.start, size));
            } else {
                if SERIALISED.contains(&&*last) {
                    self.serialised.get_or_insert_with(|| member.name.clone());
                }
                self.look_into(&last, &member, members)?;
                self.look_for_hint(&last, &member, members)?;
            }
        } else if member.content != Content::Plain {
            self.elsewhere += 1;
            self.first_elsewhere.get_or_insert(member.name);
        } else if let Some(field) = field {
            self.found[field].get_or_insert((member.start, size));
        } else if !is_image {
            if let Some(class) = self.class_of(&member, members)? {
                self.label.add(class);
            }
        } else if self.image.is_some() {
            self.second_images += 1;
        } else {
            self.note_content(&member, members)?;
            self.image = Some((member.name, member.start, size));
        }
        Ok(())
    }

    fn note_content(
        &mut self,
        image: &Member,
        members: &mut TarMembers<impl Read + Seek>,
    ) -> Result<()> {
        if image.content == Content::Plain && content::is_looked_into(self.images) {
            self.content.update(&members.middle(image)?);
        }
        self.images += 1;
        Ok(())
    }

    /// The class that a member says; one that says none is counted.
    fn class_of(
        &mut self,
        member: &Member,
        members: &mut TarMembers<impl Read + Seek>,
    ) -> Result<Option<u32>> {
        let said = self.wanted.label.read(&members.beginning(member, MOST_LABEL_BYTES)?);
        Ok(said.map_or_else(
            |what| {
                self.bad_labels += 1;
                self.first_bad_label.get_or_insert_with(|| format!("`{}` {what}", member.name));
                None
            },
            Some,
        ))
    }

    /// Counts a member of another ending that is an image by what it begins with: the first of each ending is
    /// looked into.
    fn look_into(
        &mut self,
        ending: &str,
        member: &Member,
        members: &mut TarMembers<impl Read + Seek>,
    ) -> Result<()> {
        if let Some(count) = self.not_read.get_mut(ending) {
            *count += 1;
        } else if member.content == Content::Plain
            && !TEXTS.contains(&ending)
            && self.looked_into.len() < MOST_LOOKED_INTO
            && self.looked_into.insert(ending.to_string())
            && begins_image(&members.beginning(member, IMAGE_MARK as u64)?)
        {
            self.not_read.insert(ending.to_string(), 1);
        }
        Ok(())
    }

    /// Whether a member of another extension says what seems to be a class. Only the first ones are read.
    fn look_for_hint(
        &mut self,
        extension: &str,
        member: &Member,
        members: &mut TarMembers<impl Read + Seek>,
    ) -> Result<()> {
        let is_text =
            ["json", "txt", "index", "label", "class", "id", "target"].contains(&extension);
        let is_wanted = self.hint.is_none() && self.hints_looked_for < MOST_HINTS;
        if !is_text || !is_wanted || member.content != Content::Plain {
            return Ok(());
        }
        self.hints_looked_for += 1;
        let text = members.beginning(member, MOST_HINT_BYTES)?;
        self.hint = hint(extension, &text).map(|label| {
            let said: String = String::from_utf8_lossy(&text).trim().chars().take(60).collect();
            LabelHint { member: member.name.clone(), said, label }
        });
        Ok(())
    }

    fn close(&mut self) {
        let label = std::mem::take(&mut self.label);
        let dotted = std::mem::take(&mut self.dotted);
        if let Some(image) = self.image.take() {
            if label == Label::Contradicting {
                self.contradicting.insert(self.index.rows());
            }
            self.push(image, label);
        } else {
            if label != Label::None {
                self.apart.entry(self.key.clone()).or_default().join(label);
            }
            // `v1.5.jpg` and `v1.6.jpg` share a key that nobody meant.
            let found = std::mem::replace(&mut self.found, vec![None; self.wanted.fields.len()]);
            dotted.into_iter().for_each(|image| self.push(image, Label::None));
            self.found = found;
        }
        self.found.fill(None);
    }

    /// Adds the sample of an image, with the fields that were found.
    fn push(&mut self, (name, offset, size): (String, u64, u32), label: Label) {
        self.index.offsets.push(offset);
        self.index.sizes.push(size);
        self.index.labels.push(label.number());
        self.index.names.extend(name.as_bytes());
        self.index.name_ends.push(self.index.names.len() as u32);
        for (column, found) in self.index.fields.iter_mut().zip(&self.found) {
            column.push(*found);
        }
    }

    fn finish(mut self) -> Result<ShardIndex> {
        self.close();
        if self.index.rows() == 0 {
            let others = match self.not_read.is_empty() {
                true => String::new(),
                false => format!("; {}", kinds_left_out(&self.not_read)),
            };
            bail!("no image (.jpg, .jpeg, .png, .webp) among its {} members{others}", self.members);
        }
        ensure!(
            self.index.names.len() < u32::MAX as usize,
            "its member names take over 4 GiB; split the shard"
        );
        self.take_labels_apart();
        let (notes, content) = (self.notes(), *self.content.finalize().as_bytes());
        Ok(ShardIndex { notes, content, ..self.index })
    }

    /// Gives labels that stand apart to the images of their names, or of their keys; what is left has none. Of several
    /// images of one name nobody knows which one is meant.
    fn take_labels_apart(&mut self) {
        if self.apart.is_empty() {
            return;
        }
        let mut rows: HashMap<String, Vec<usize>> = HashMap::new();
        for row in 0..self.index.rows() {
            let name = self.index.name(row);
            let key = base_plus_ext(name).map_or("", |(key, _)| key);
            let named = [stem(name), key].into_iter().find(|name| self.apart.contains_key(*name));
            if let Some(name) = named {
                rows.entry(name.to_string()).or_default().push(row);
            }
        }
        for (name, rows) in rows {
            let label = self.apart.remove(&name).unwrap_or_default();
            let same = rows.iter().filter(|&&row| stem(self.index.name(row)) == name).count();
            for row in rows {
                let mut own = match self.index.labels[row] {
                    _ if same > 1 || self.contradicting.contains(&row) => Label::Contradicting,
                    NO_LABEL => Label::None,
                    class => Label::Class(class),
                };
                own.join(label);
                self.index.labels[row] = own.number();
                if own == Label::Contradicting {
                    self.contradicting.insert(row);
                }
            }
        }
    }

    /// What is odd about labels.
    fn note_labels(&self, notes: &mut Vec<String>) {
        let extension = self.wanted.label.extension();
        if let Some(example) = &self.first_bad_label {
            notes.push(format!(
                "{} `.{extension}` members say no class and are not read; {example}",
                self.bad_labels
            ));
        }
        if let Some(key) = self.apart.keys().min() {
            notes.push(format!(
                "{} `.{extension}` members have no image of their key; one is `{key}.{extension}`",
                self.apart.len()
            ));
        }
        if !self.contradicting.is_empty() {
            notes.push(format!(
                "{} images have no label: several of one key have `.{extension}` members apart from them, or \
                 members that contradict each other",
                self.contradicting.len()
            ));
        }
        let labelled = self.index.labelled();
        if labelled == 0
            && self.first_bad_label.is_none()
            && let Some(LabelHint { member, said, label }) = &self.hint
        {
            notes.push(format!(
                "no image has a label: there is no `.{extension}` member; `{member}` is {said:?}, which \
                 data.label = \"{label}\" would read"
            ));
        }
        if labelled == 0
            && self.first_bad_label.is_none()
            && self.hint.is_none()
            && let Some(member) = &self.serialised
        {
            notes.push(format!(
                "no image has a label: there is no `.{extension}` member, and those such as `{member}` are not \
                 read; if they say classes, write these as text (`.cls`: a number)"
            ));
        }
        if labelled > 0 && labelled < self.index.rows() && self.first_bad_label.is_none() {
            notes.push(format!(
                "{} of {} images have no label",
                self.index.rows() - labelled,
                self.index.rows()
            ));
        }
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
        for (field, column) in self.wanted.fields.iter().zip(&self.index.fields) {
            let without = column.sizes.iter().filter(|&&size| size == 0).count();
            if without > 0 {
                notes.push(format!("{without} images have no `.{field}` member beside them"));
            }
        }
        self.note_labels(&mut notes);
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
