//! Members of a zip archive that are stored as they are. PyTorch writes its checkpoints that way, so tensors can be
//! used where they lie in the mapped file; a compressed member is refused.
//!
//! Source: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14-16 (its end).

use std::{collections::HashMap, ops::Range};

const END: u32 = 0x0605_4b50;
const END_LEN: usize = 22;
const LOCATOR64: u32 = 0x0706_4b50;
const LOCATOR64_LEN: usize = 20;
const END64: u32 = 0x0606_4b50;
const ENTRY: u32 = 0x0201_4b50;
const ENTRY_LEN: usize = 46;
const LOCAL: u32 = 0x0403_4b50;
const LOCAL_LEN: usize = 30;
/// The longest comment at the end of an archive.
const MAX_COMMENT: usize = 65_535;

/// Where each member's bytes lie in `archive`. The error is a clause to put after the file's name.
pub(crate) fn members(archive: &[u8]) -> Result<HashMap<&str, Range<usize>>, String> {
    let (mut at, count) = directory(archive).ok_or("is no intact zip archive; fetch it again")?;
    let mut members = HashMap::new();
    for _ in 0..count {
        let (name, place, next) = member(archive, at)?;
        members.insert(name, place);
        at = next;
    }
    Ok(members)
}

/// Offset of the central directory and how many entries it has.
fn directory(archive: &[u8]) -> Option<(usize, usize)> {
    let last = archive.len().checked_sub(END_LEN)?;
    let end = (last.saturating_sub(MAX_COMMENT)..=last).rev().find(|at| u32_at(archive, *at) == Some(END))?;
    let locator = end.checked_sub(LOCATOR64_LEN).filter(|at| u32_at(archive, *at) == Some(LOCATOR64));
    let Some(locator) = locator else {
        return Some((u32_at(archive, end + 16)? as usize, usize::from(u16_at(archive, end + 10)?)));
    };
    let end64 = u64_at(archive, locator + 8)?;
    (u32_at(archive, end64)? == END64).then_some(())?;
    let count = u64_at(archive, end64.checked_add(32)?)?;
    // No more entries than would fit the file: the loop over them ends.
    (count <= archive.len() / ENTRY_LEN).then_some((u64_at(archive, end64.checked_add(48)?)?, count))
}

/// Name and place of the member whose entry is at `at`, and where the next entry is.
fn member(archive: &[u8], at: usize) -> Result<(&str, Range<usize>, usize), String> {
    const CUT: &str = "is cut short in its zip directory; fetch it again";
    if u32_at(archive, at) != Some(ENTRY) {
        return Err(CUT.to_owned());
    }
    let short = |offset: usize| u16_at(archive, at + offset).map(usize::from).ok_or(CUT);
    let long = |offset: usize| u32_at(archive, at + offset).map(|n| n as usize).ok_or(CUT);
    let (name_len, extra_len, comment_len) = (short(28)?, short(30)?, short(32)?);
    let name_end = at + ENTRY_LEN + name_len;
    let name = archive.get(at + ENTRY_LEN..name_end).and_then(|name| std::str::from_utf8(name).ok()).ok_or(CUT)?;
    let extra = archive.get(name_end..name_end + extra_len).ok_or(CUT)?;
    let (mut packed, mut size, mut local) = (long(20)?, long(24)?, long(42)?);
    widen(extra, [&mut size, &mut packed, &mut local]).ok_or(CUT)?;
    if short(10)? != 0 || packed != size || short(8)? & 1 != 0 {
        return Err(format!("has a compressed or encrypted member {name}; PyTorch writes none, save it again"));
    }
    let place = place(archive, local, size).ok_or_else(|| format!("ends within {name}; fetch it again"))?;
    Ok((name, place, name_end + extra_len + comment_len))
}

/// Replaces the fields that say "see the zip64 extra field" (section 4.5.3), in their order there.
fn widen(mut extra: &[u8], fields: [&mut usize; 3]) -> Option<()> {
    let mut wide: &[u8] = &[];
    while extra.len() >= 4 {
        let len = usize::from(u16_at(extra, 2)?);
        let body = extra.get(4..4 + len)?;
        if u16_at(extra, 0)? == 1 {
            wide = body;
        }
        extra = &extra[4 + len..];
    }
    for field in fields.into_iter().filter(|field| **field == u32::MAX as usize) {
        *field = u64_at(wide, 0)?;
        wide = &wide[8..];
    }
    Some(())
}

/// The bytes behind the local header at `local`.
fn place(archive: &[u8], local: usize, size: usize) -> Option<Range<usize>> {
    (u32_at(archive, local)? == LOCAL).then_some(())?;
    let name_len = usize::from(u16_at(archive, local + 26)?);
    let extra_len = usize::from(u16_at(archive, local + 28)?);
    let start = local + LOCAL_LEN + name_len + extra_len;
    let end = start.checked_add(size)?;
    (end <= archive.len()).then_some(start..end)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    array(bytes, at).map(u64::from_le_bytes).and_then(|n| usize::try_from(n).ok())
}
