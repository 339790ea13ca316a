//! Reads pickles as data. Nothing in them is executed.
//!
//! A pickle is a program for a small stack machine that may name any Python function and have it
//! called. This reader keeps a call as a note of who would be called with what
//! ([`Node::Call`]); the caller looks for the few calls that rebuild a tensor and ignores the
//! rest. All values live in one arena and refer to each other by index, so that hostile nesting
//! or cycles cost no recursion, and never more memory than some multiple of the pickle's length.
//! Instructions: <https://docs.python.org/3/library/pickletools.html>, protocols 2 to 5.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};

/// A value's place in [`Pickle`].
pub(super) type Id = usize;

/// A value.
#[derive(Debug)]
pub(super) enum Node {
    Int(i64),
    Text(String),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function by its dotted name.
    Global(String),
    /// `callee(*arguments)`, not done.
    Call {
        callee: Id,
        arguments: Id,
    },
    /// Something kept outside the pickle.
    Persistent(Id),
    /// A value that no tensor is made of: numbers, lists, sets, bytes, ...
    Other,
}

/// A pickle that was read.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    /// The value that the pickle stands for.
    pub root: Id,
}

impl Pickle {
    /// Reads the pickle that `bytes` begin with.
    ///
    /// # Errors
    /// It is cut short, damaged, or of protocol 0 or 1.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let mut machine = Machine { rest: bytes, ..Machine::default() };
        loop {
            let at = bytes.len() - machine.rest.len();
            let code = machine.byte()?;
            if code == b'.' {
                break;
            }
            machine
                .step(code)
                .with_context(|| format!("instruction {code:#04x} at byte {at} of the pickle"))?;
        }
        let root = machine.pop()?;
        Ok(Self { nodes: machine.nodes, root })
    }

    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    pub fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn int(&self, id: Id) -> Option<i64> {
        match self.node(id) {
            Node::Int(value) => Some(*value),
            _ => None,
        }
    }

    pub fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The dotted name of a class or function.
    pub fn global(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Global(name) => Some(name),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Machine<'a> {
    rest: &'a [u8],
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks set.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    fn step(&mut self, code: u8) -> Result<()> {
        match code {
            0x80 => drop(self.take(1)?), // protocol
            0x95 => drop(self.take(8)?), // frame
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.stack.push(self.top()?),
            b'N' | 0x88 | 0x89 | b']' | 0x8f => self.push(Node::Other),
            b'a' => drop(self.pop()?), // append: lists keep nothing
            b'e' | 0x90 => drop(self.pop_to_mark()?),
            b'l' | 0x91 => self.collect(|_| Node::Other)?,
            b'J' | b'K' | b'M' | 0x8a | 0x8b | b'G' => self.number(code)?,
            b'X' | 0x8c | 0x8d | b'T' | b'U' | b'B' | b'C' | 0x8e | 0x96 => self.string(code)?,
            b')' => self.push(Node::Tuple(vec![])),
            b't' => self.collect(Node::Tuple)?,
            0x85..=0x87 => self.short_tuple(usize::from(code - 0x84))?,
            b'}' => self.push(Node::Dict(vec![])),
            b'd' => self.collect(|items| Node::Dict(pairs(&items)))?,
            b's' | b'u' => self.set_items(code == b'u')?,
            b'c' | 0x93 => self.global(code == b'c')?,
            b'R' | 0x81 | 0x92 => self.call(code == 0x92)?,
            b'b' => drop(self.pop()?), // build: the state of an object, none of which is a tensor
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            b'q' | b'r' | 0x94 => self.remember(code)?,
            b'h' | b'j' => self.recall(if code == b'h' { 1 } else { 4 })?,
            _ => bail!("not an instruction that torch.save writes"),
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).context("the pickle is cut short")?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned number of `width` bytes, least significant first.
    fn unsigned(&mut self, width: usize) -> Result<usize> {
        Ok(self.take(width)?.iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte)))
    }

    fn line(&mut self) -> Result<&'a str> {
        let length = self.rest.iter().position(|&byte| byte == b'\n');
        let line = self.take(length.context("the pickle is cut short")?)?;
        self.take(1)?;
        Ok(std::str::from_utf8(line)?)
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().context("the stack is empty")
    }

    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        ensure!(self.stack.len() > floor, "the stack is empty");
        self.stack.pop().context("the stack is empty")
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().context("no mark was set")?;
        Ok(self.stack.split_off(mark))
    }

    fn collect(&mut self, make: impl FnOnce(Vec<Id>) -> Node) -> Result<()> {
        let items = self.pop_to_mark()?;
        self.push(make(items));
        Ok(())
    }

    fn short_tuple(&mut self, count: usize) -> Result<()> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        self.push(Node::Tuple(items));
        Ok(())
    }

    fn number(&mut self, code: u8) -> Result<()> {
        let width = match code {
            b'K' => 1,
            b'M' => 2,
            b'J' => 4,
            b'G' => 8,
            0x8a => self.unsigned(1)?,
            _ => self.unsigned(4)?,
        };
        let bytes = self.take(width)?;
        let signed = !matches!(code, b'K' | b'M');
        let node = match code {
            b'G' => Node::Other,
            _ if width > 8 => Node::Other,
            _ => {
                let negative = signed && bytes.last().is_some_and(|&byte| byte >= 0x80);
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                wide[..width].copy_from_slice(bytes);
                Node::Int(i64::from_le_bytes(wide))
            }
        };
        self.push(node);
        Ok(())
    }

    /// Text, or bytes, which no tensor's description holds.
    fn string(&mut self, code: u8) -> Result<()> {
        let width = match code {
            0x8c | b'U' | b'C' => 1,
            b'X' | b'T' | b'B' => 4,
            _ => 8,
        };
        let length = self.unsigned(width)?;
        let bytes = self.take(length)?;
        let node = match code {
            b'X' | 0x8c | 0x8d => Node::Text(std::str::from_utf8(bytes)?.into()),
            b'T' | b'U' => Node::Text(String::from_utf8_lossy(bytes).into()),
            _ => Node::Other,
        };
        self.push(node);
        Ok(())
    }

    /// `dict[key] = value`, once or up to the mark; items of other things are dropped.
    fn set_items(&mut self, to_mark: bool) -> Result<()> {
        let items = if to_mark {
            self.pop_to_mark()?
        } else {
            let value = self.pop()?;
            vec![self.pop()?, value]
        };
        let target = self.top()?;
        if let Node::Dict(entries) = &mut self.nodes[target] {
            entries.extend(pairs(&items));
        }
        Ok(())
    }

    fn global(&mut self, in_line: bool) -> Result<()> {
        let name = if in_line {
            format!("{}.{}", self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (&self.nodes[module], &self.nodes[name]) {
                (Node::Text(module), Node::Text(name)) => format!("{module}.{name}"),
                _ => bail!("a global whose name is not text"),
            }
        };
        self.push(Node::Global(name));
        Ok(())
    }

    /// Notes a call. The two dictionary classes of state dicts become dictionaries.
    fn call(&mut self, with_keywords: bool) -> Result<()> {
        if with_keywords {
            self.pop()?;
        }
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let is_dict = matches!(&self.nodes[callee], Node::Global(name)
            if name == "collections.OrderedDict" || name == "collections.defaultdict");
        self.push(if is_dict { Node::Dict(vec![]) } else { Node::Call { callee, arguments } });
        Ok(())
    }

    fn remember(&mut self, code: u8) -> Result<()> {
        let key = match code {
            b'q' => self.unsigned(1)?,
            b'r' => self.unsigned(4)?,
            _ => self.memo.len(),
        };
        self.memo.insert(key, self.top()?);
        Ok(())
    }

    fn recall(&mut self, width: usize) -> Result<()> {
        let key = self.unsigned(width)?;
        let id = self.memo.get(&key).with_context(|| format!("memo {key} was never set"))?;
        self.stack.push(*id);
        Ok(())
    }
}

/// Keys and values that alternate.
fn pairs(items: &[Id]) -> Vec<(Id, Id)> {
    items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Nesting as deep as a file is long costs no recursion, neither to build nor to drop.
    #[test]
    fn deep_nesting_is_harmless() {
        let mut bytes = vec![b')'];
        // In place: an array would stand on the test's stack first.
        bytes.resize(1 + 1_000_000, 0x85);
        bytes.push(b'.');
        let pickle = Pickle::read(&bytes).unwrap();
        assert_eq!(pickle.tuple(pickle.root).unwrap().len(), 1);
    }

    /// Doubling a tuple again and again doubles no memory: parts are shared, not copied.
    #[test]
    fn shared_parts_are_not_copied() {
        let mut bytes = vec![b')'];
        bytes.extend([b'2', 0x86].repeat(100_000));
        bytes.push(b'.');
        assert_eq!(Pickle::read(&bytes).unwrap().nodes.len(), 100_001);
    }

    /// Integers of every width, signed and not.
    #[test]
    fn integers_are_read() {
        for (bytes, expected) in [
            (&b"K\xff."[..], 255),
            (b"M\xff\xff.", 65535),
            (b"J\xff\xff\xff\xff.", -1),
            (b"\x8a\x00.", 0),
            (b"\x8a\x02\x00\x80.", -32768),
            (b"\x8a\x05\x00\x00\x00\x00\x01.", 1 << 32),
            (b"\x8b\x01\x00\x00\x00\x7f.", 127),
        ] {
            let pickle = Pickle::read(bytes).unwrap();
            assert_eq!(pickle.int(pickle.root), Some(expected), "{bytes:?}");
        }
    }

    proptest! {
        /// Any sequence of instructions and arguments is an error or a value, never a panic.
        #[test]
        fn anything_can_be_read(bytes in vec(prop_oneof![
            3 => proptest::sample::select(
                b"(.012NJKMG]aeltds}ubcRQqrhjXTUBC)\n\x00\x01\x02\x80\x81\x85\x86\x87\x88\x8a\
                  \x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96".to_vec()),
            1 => any::<u8>(),
        ], 0..200)) {
            if let Ok(pickle) = Pickle::read(&bytes) {
                prop_assert!(pickle.root < pickle.nodes.len());
            }
        }
    }
}
