//! The frames of a multistream handshake, and the two spellings of a protocol name.
//!
//! hivemind's names lack the leading slash that this libp2p insists on. Inside this process such a name carries the
//! prefix `/hm/`; on the wire it does not. The mapping is one to one: a wire name that happens to start with `/hm/`
//! gets the prefix too.

use std::io;

/// What a slash-less wire name starts with on this side of the shim.
const PREFIX: &str = "/hm/";
/// The longest frame body of a handshake: what a two-byte length can say.
const MAX_FRAME: usize = 0x3fff;

/// Which spelling a frame is turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// As the local libp2p stack wants it: `/hm/NAME`.
    Local,
    /// As the peer wants it: `NAME`.
    Wire,
}

/// What a handshake frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `/multistream/1.0.0`
    Header,
    /// `na`: the proposal was refused.
    Refusal,
    /// `ls`: the question for all names.
    ListRequest,
    /// The answer to `ls`.
    List,
    /// One protocol name: a proposal or its acceptance.
    Name,
}

/// The local spelling of a wire name.
pub(super) fn local_name(wire: &str) -> String {
    if wire.starts_with('/') && !wire.starts_with(PREFIX) { wire.to_owned() } else { format!("{PREFIX}{wire}") }
}

/// One whole frame at the head of `input`: its kind, the frame in the other spelling, and how many bytes it took.
/// `None` when bytes are still missing.
pub(super) fn translate(input: &[u8], to: Spelling) -> io::Result<Option<(Kind, Vec<u8>, usize)>> {
    let Some((length, head)) = length_prefix(input)? else { return Ok(None) };
    let Some(body) = input.get(head..head + length) else { return Ok(None) };
    let (kind, body) = translate_body(body, to)?;
    let mut frame = Vec::with_capacity(body.len() + 2);
    put_length(&mut frame, body.len())?;
    frame.extend_from_slice(&body);
    Ok(Some((kind, frame, head + length)))
}

fn translate_body(body: &[u8], to: Spelling) -> io::Result<(Kind, Vec<u8>)> {
    let kind = match body {
        b"/multistream/1.0.0\n" => Kind::Header,
        b"na\n" => Kind::Refusal,
        b"ls\n" => Kind::ListRequest,
        [.., b'\n'] if body.len() > 1 && !body[..body.len() - 1].contains(&b'\n') => {
            return Ok((Kind::Name, respell(body, to)));
        }
        [.., b'\n'] => return Ok((Kind::List, translate_list(body, to)?)),
        _ => return Err(malformed("a handshake frame does not end in a newline")),
    };
    Ok((kind, body.to_vec()))
}

/// An `ls` answer: `(length name newline)* newline`.
fn translate_list(mut body: &[u8], to: Spelling) -> io::Result<Vec<u8>> {
    let mut list = Vec::with_capacity(body.len());
    while body != b"\n" {
        let entry =
            length_prefix(body)?.and_then(|(length, head)| Some((body.get(head..head + length)?, head + length)));
        let Some((name @ [.., b'\n'], taken)) = entry else { return Err(malformed("a broken list of protocols")) };
        let name = respell(name, to);
        put_length(&mut list, name.len())?;
        list.extend_from_slice(&name);
        body = &body[taken..];
    }
    list.push(b'\n');
    Ok(list)
}

/// A name with its newline, in the other spelling.
fn respell(name: &[u8], to: Spelling) -> Vec<u8> {
    let prefix = PREFIX.as_bytes();
    match to {
        Spelling::Wire => name.strip_prefix(prefix).unwrap_or(name).to_vec(),
        Spelling::Local if name.starts_with(b"/") && !name.starts_with(prefix) => name.to_vec(),
        Spelling::Local => [prefix, name].concat(),
    }
}

/// The length at the head of `input` and the bytes it took.
fn length_prefix(input: &[u8]) -> io::Result<Option<(usize, usize)>> {
    match input {
        [] => Ok(None),
        [0, ..] => Err(malformed("an empty handshake frame")),
        [low @ 0..0x80, ..] => Ok(Some((usize::from(*low), 1))),
        [_] => Ok(None),
        [low, high @ 1..0x80, ..] => Ok(Some((usize::from(low & 0x7f) | usize::from(*high) << 7, 2))),
        _ => Err(malformed("a handshake frame is too long")),
    }
}

fn put_length(frame: &mut Vec<u8>, length: usize) -> io::Result<()> {
    if length > MAX_FRAME {
        return Err(malformed("a handshake frame is too long"));
    }
    if length >= 0x80 {
        frame.push((length & 0x7f) as u8 | 0x80);
        frame.push((length >> 7) as u8);
    } else {
        frame.push(length as u8);
    }
    Ok(())
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
