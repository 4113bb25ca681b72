//! The part of Python's pickle that describes tensors. Nothing is ever called or imported: classes are names, and
//! memory stays within a small multiple of the pickle's own size, whatever it says.
//!
//! Source: `Lib/pickletools.py` of CPython for the opcodes, `torch/_utils.py` of PyTorch for `_rebuild_tensor_v2`.

use std::collections::HashMap;

/// A value on the pickle machine's stack. Containers live in the machine, by index, so that no pickle can build a
/// value too deep to drop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Int(i64),
    Text(&'a str),
    /// Module and name.
    Class(&'a str, &'a str),
    Tuple(usize),
    Dict(usize),
    /// A class and the tuple it would be called with.
    Built((&'a str, &'a str), usize),
    /// What stands outside the pickle, by the tuple that names it.
    Outside(usize),
    Mark,
    /// Anything that does not matter for tensors.
    Other,
}

/// A pickle that has been run.
#[derive(Debug, Default)]
pub(crate) struct Pickle<'a> {
    tuples: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    stack: Vec<Value<'a>>,
    memo: HashMap<u32, Value<'a>>,
}

impl<'a> Pickle<'a> {
    /// Runs `code`; the value it ends with, and the machine that holds its parts.
    pub(crate) fn run(code: &'a [u8]) -> Result<(Self, Value<'a>), String> {
        let mut machine = Self::default();
        let mut code = Code { rest: code };
        while machine.step(&mut code)? {}
        let top = machine.pop()?;
        Ok((machine, top))
    }

    pub(crate) fn tuple(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::Tuple(index) => self.tuples.get(index).map(Vec::as_slice),
            _ => None,
        }
    }

    pub(crate) fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match value {
            Value::Dict(index) => self.dicts.get(index).map(Vec::as_slice),
            _ => None,
        }
    }

    /// Runs one opcode; whether there is more to do.
    fn step(&mut self, code: &mut Code<'a>) -> Result<bool, String> {
        match code.byte()? {
            // protocol, frame
            0x80 => drop(code.byte()?),
            0x95 => drop(code.take(8)?),
            b'.' => return Ok(false),
            // values
            b'N' | 0x88 | 0x89 => self.push(Value::Other),
            b'J' => {
                let int = i32::from_le_bytes(code.array()?);
                self.push(Value::Int(int.into()));
            }
            b'K' => {
                let int = code.byte()?;
                self.push(Value::Int(int.into()));
            }
            b'M' => {
                let int = u16::from_le_bytes(code.array()?);
                self.push(Value::Int(int.into()));
            }
            0x8a => self.long(code)?,
            b'G' => {
                code.take(8)?;
                self.push(Value::Other);
            }
            b'X' => {
                let len = u32::from_le_bytes(code.array()?);
                self.text(code, len as usize)?;
            }
            0x8c => {
                let len = code.byte()?;
                self.text(code, len.into())?;
            }
            b'c' => {
                let (module, name) = (code.line()?, code.line()?);
                self.push(Value::Class(module, name));
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.push(Value::Class(module, name)),
                _ => return Err("a class without a name".to_owned()),
            },
            // containers
            b'(' => self.push(Value::Mark),
            b')' => self.make_tuple(Vec::new()),
            0x85 => self.tuple_of(1)?,
            0x86 => self.tuple_of(2)?,
            0x87 => self.tuple_of(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.make_tuple(items);
            }
            b']' => self.push(Value::Other),
            b'a' => drop(self.pop()?),
            b'e' => drop(self.pop_to_mark()?),
            b'}' => self.make_dict(),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.insert(&items)?;
            }
            // memo
            b'q' => {
                let key = code.byte()?;
                self.remember(key.into())?;
            }
            b'r' => {
                let key = u32::from_le_bytes(code.array()?);
                self.remember(key)?;
            }
            0x94 => self.remember(u32::try_from(self.memo.len()).unwrap_or(u32::MAX))?,
            b'h' => {
                let key = code.byte()?;
                self.recall(key.into())?;
            }
            b'j' => {
                let key = u32::from_le_bytes(code.array()?);
                self.recall(key)?;
            }
            // objects
            b'R' | 0x81 => self.build()?,
            // state of an object: only metadata in a checkpoint
            b'b' => drop(self.pop()?),
            b'Q' => match self.pop()? {
                Value::Tuple(index) => self.push(Value::Outside(index)),
                _ => return Err("an unknown reference to the outside".to_owned()),
            },
            other => return Err(format!("opcode {other:#04x}, which no checkpoint needs")),
        }
        Ok(true)
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        self.stack.pop().ok_or_else(|| "an empty stack".to_owned())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.stack.iter().rposition(|v| *v == Value::Mark).ok_or("a missing mark")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn text(&mut self, code: &mut Code<'a>, len: usize) -> Result<(), String> {
        let text = std::str::from_utf8(code.take(len)?).map_err(|_| "text that is no UTF-8")?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn long(&mut self, code: &mut Code<'a>) -> Result<(), String> {
        let len = code.byte()?;
        let bytes = code.take(len.into())?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide.get_mut(..bytes.len()).ok_or("an integer of more than 64 bits")?.copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn tuple_of(&mut self, len: usize) -> Result<(), String> {
        let from = self.stack.len().checked_sub(len).ok_or("an empty stack")?;
        let items = self.stack.split_off(from);
        self.make_tuple(items);
        Ok(())
    }

    fn make_tuple(&mut self, items: Vec<Value<'a>>) {
        self.tuples.push(items);
        self.push(Value::Tuple(self.tuples.len() - 1));
    }

    fn make_dict(&mut self) {
        self.dicts.push(Vec::new());
        self.push(Value::Dict(self.dicts.len() - 1));
    }

    fn insert(&mut self, items: &[Value<'a>]) -> Result<(), String> {
        match self.stack.last() {
            Some(Value::Dict(index)) => {
                let dict = self.dicts.get_mut(*index).ok_or("a lost dict")?;
                dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
                Ok(())
            }
            Some(Value::Other | Value::Built(..)) => Ok(()),
            _ => Err("an item without a dict".to_owned()),
        }
    }

    fn remember(&mut self, key: u32) -> Result<(), String> {
        let top = *self.stack.last().ok_or("an empty stack")?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let value = *self.memo.get(&key).ok_or("a missing memo entry")?;
        self.push(value);
        Ok(())
    }

    fn build(&mut self) -> Result<(), String> {
        match (self.pop()?, self.pop()?) {
            (Value::Tuple(_), Value::Class("collections", "OrderedDict")) => self.make_dict(),
            (Value::Tuple(args), Value::Class(module, name)) => self.push(Value::Built((module, name), args)),
            (_, Value::Mark) | (Value::Mark, _) => return Err("a call without a class".to_owned()),
            _ => self.push(Value::Other),
        }
        Ok(())
    }
}

/// Bytes still to be run.
struct Code<'a> {
    rest: &'a [u8],
}

impl<'a> Code<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or("an early end")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "an early end".to_owned())
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let len = self.rest.iter().position(|b| *b == b'\n').ok_or("an early end")?;
        let line = self.take(len + 1)?;
        std::str::from_utf8(&line[..len]).map_err(|_| "a name that is no UTF-8".to_owned())
    }
}
