//! Counts what a protobuf message repeats before anything is allocated for it.

use prost::Message;

use crate::wire::WireError;

/// A message with a name for errors and rules for its repeated fields.
pub trait Bounded: Message + Default {
    /// How errors call it.
    const NAME: &'static str;
    /// One rule for each repeated field, and for each field that holds a message with rules.
    const RULES: &'static [Rule];
}

/// How often one field may stand in a message.
#[derive(Debug)]
pub struct Rule {
    /// Field number.
    pub field: u32,
    /// Most elements.
    pub most: usize,
    /// What an element is.
    pub kind: Kind,
}

/// What a bounded field holds.
#[derive(Debug)]
pub enum Kind {
    /// Byte strings, each counted once.
    Bytes,
    /// Messages, each counted once and checked by these rules.
    Message(&'static [Rule]),
    /// Varints, packed or not.
    Varints,
    /// Doubles, packed or not.
    Doubles,
}

/// Walks the fields of one message; `RULES` are static, so the recursion is as deep as the schema.
pub(super) fn check(what: &'static str, bytes: &[u8], rules: &[Rule]) -> Result<(), WireError> {
    let mut rest = bytes;
    let mut counts = [0usize; 8];
    while !rest.is_empty() {
        let tag = varint(what, &mut rest)?;
        let field = u32::try_from(tag >> 3).map_err(|_| WireError::malformed(what, "field number"))?;
        let rule = rules.iter().position(|r| r.field == field).filter(|at| *at < counts.len());
        let body = match tag & 7 {
            0 => {
                varint(what, &mut rest)?;
                &[][..]
            }
            1 => take(what, &mut rest, 8)?,
            2 => {
                let claimed = varint(what, &mut rest)?;
                let length = usize::try_from(claimed).map_err(|_| WireError::truncated(what))?;
                take(what, &mut rest, length)?
            }
            5 => take(what, &mut rest, 4)?,
            _ => return Err(WireError::malformed(what, "wire type without a use here")),
        };
        let Some(at) = rule else { continue };
        let rule = &rules[at];
        counts[at] += match (&rule.kind, tag & 7) {
            (Kind::Varints, 2) => body.iter().filter(|b| **b < 0x80).count(),
            (Kind::Doubles, 2) => body.len() / 8,
            (Kind::Message(inner), 2) => {
                check(what, body, inner)?;
                1
            }
            _ => 1,
        };
        WireError::cap(what, counts[at], rule.most)?;
    }
    Ok(())
}

/// Takes a LEB128 varint off the front of `rest`.
fn varint(what: &'static str, rest: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0u64;
    for (i, byte) in rest.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if *byte < 0x80 {
            *rest = &rest[i + 1..];
            return Ok(value);
        }
    }
    Err(if rest.len() < 10 { WireError::truncated(what) } else { WireError::malformed(what, "varint without an end") })
}

/// Takes `length` bytes off the front of `rest`.
fn take<'a>(what: &'static str, rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], WireError> {
    let (head, tail) = rest.split_at_checked(length).ok_or(WireError::truncated(what))?;
    *rest = tail;
    Ok(head)
}
