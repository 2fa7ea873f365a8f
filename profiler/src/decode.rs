//! From the ring buffer's bytes to records: the first stage.
//!
//! The bytes come from our own programs, but they are checked all the same: a record that is not whole is an error with
//! a counter, not a panic.

use std::{mem::offset_of, num::NonZeroU32};

use profiler_common::{
    limits::{MAX_KERNEL_ADDRESSES, MAX_NATIVE_ADDRESSES, MAX_PYTHON_FRAMES},
    mark::{MarkEvent, MarkRecord},
    record::{
        BeganRecord, BlockRecord, CallRecord, CodeRecord, MemoryEvent, MemoryRecord, PYTHON_FRAME_WORDS, PythonFrame,
        RECORD_BEGAN, RECORD_BLOCK, RECORD_CALL, RECORD_CODE, RECORD_DEFINITION, RECORD_IO, RECORD_MARK, RECORD_MEMORY,
        RECORD_SAMPLE, RECORD_STACK, RECORD_STALL, RECORD_WAIT, SampleHeader, StackKey, StackRecord,
    },
    wait::{IoEvent, IoRecord, StallRecord, WaitEvent, WaitRecord},
};
use thiserror::Error;

/// One record, as the kernel side sent it.
#[derive(Debug)]
pub enum RawRecord<'a> {
    /// A sample whose stack was sent before.
    Sample(SampleHeader),
    /// A sample with its stack.
    Stack(SampleHeader, RawStack),
    Code(RawCode<'a>),
    /// A stack that records will refer to.
    Definition(SampleHeader, RawStack),
    /// Something that happened to memory.
    Memory(SampleHeader, MemoryEvent),
    /// A block that came or went.
    Block(BlockRecord),
    /// A call of a chosen function has ended.
    Call(CallRecord),
    /// A process is counted that nobody had told of.
    Began(BeganRecord),
    /// A wait that was drawn.
    Wait(SampleHeader, Box<WaitEvent>),
    /// An event loop did not poll for long.
    Stall(StallRecord),
    /// A call that moves data, and was drawn.
    Io(SampleHeader, Box<IoEvent>),
    /// An exception, an import or a garbage collection.
    Mark(SampleHeader, Box<MarkEvent>),
}

impl RawRecord<'_> {
    /// When it happened (CLOCK_MONOTONIC).
    pub fn time_ns(&self) -> u64 {
        match self {
            Self::Sample(header) | Self::Stack(header, _) | Self::Definition(header, _) | Self::Memory(header, _) => {
                header.time_ns
            }
            Self::Wait(header, _) | Self::Io(header, _) | Self::Mark(header, _) => header.time_ns,
            Self::Stall(stall) => stall.to_ns,
            Self::Code(code) => code.time_ns,
            Self::Block(block) => block.time_ns,
            Self::Call(call) => call.time_ns,
            Self::Began(began) => began.time_ns,
        }
    }
}

/// The addresses and frames of one stack, each list leaf first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawStack {
    pub kernel: Box<[u64]>,
    /// The sampled instruction's, and of each caller that of its call.
    pub native: Box<[u64]>,
    /// `NATIVE_…`: why the native stack ends where it does.
    pub native_status: u32,
    pub python: Box<[PythonFrame]>,
    /// `PYTHON_FRAMELESS`, `PYTHON_OTHER_INTERPRETER`.
    pub python_flags: u32,
    /// `PYTHON_…`: how the Python stack was read.
    pub python_status: u32,
    /// What the kernel side keeps it under.
    pub place: StackKey,
}

impl RawStack {
    /// Memory it takes up, about.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + 8 * (self.kernel.len() + self.native.len()) + size_of_val(&*self.python)
    }
}

/// A code object, still undecoded: the text's layout depends on the interpreter.
#[derive(Debug)]
pub struct RawCode<'a> {
    pub pid: u32,
    pub instance: u32,
    /// What its calls are counted under, if it was sent because it was called.
    pub identity: Option<NonZeroU32>,
    pub time_ns: u64,
    /// What tells it from others at the same address.
    pub fingerprint: u64,
    pub bytes: &'a [u8],
}

#[derive(Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    #[error("a record of {0} bytes is too short for what it says it is")]
    Short(usize),
    #[error("a record of an unknown kind, {0}")]
    UnknownKind(u32),
}

pub fn decode(bytes: &[u8]) -> Result<RawRecord<'_>, DecodeError> {
    let short = DecodeError::Short(bytes.len());
    let word = |at: usize| u32_at(bytes, at).ok_or(DecodeError::Short(bytes.len()));
    match word(0)? {
        RECORD_SAMPLE => Ok(RawRecord::Sample(header(bytes).ok_or(short)?)),
        kind @ (RECORD_STACK | RECORD_DEFINITION) => {
            let header = header(bytes).ok_or(short)?;
            let stack = stack(bytes, header.python).ok_or(DecodeError::Short(bytes.len()))?;
            Ok(match kind {
                RECORD_STACK => RawRecord::Stack(header, stack),
                _ => RawRecord::Definition(header, stack),
            })
        }
        RECORD_MEMORY => {
            let record = memory(bytes).ok_or(short)?;
            Ok(RawRecord::Memory(record.header, record.event))
        }
        RECORD_CALL => Ok(RawRecord::Call(call(bytes).ok_or(short)?)),
        RECORD_BEGAN => Ok(RawRecord::Began(began(bytes).ok_or(short)?)),
        RECORD_WAIT => {
            let record = wait(bytes).ok_or(short)?;
            Ok(RawRecord::Wait(record.header, Box::new(record.event)))
        }
        RECORD_STALL => Ok(RawRecord::Stall(stall(bytes).ok_or(short)?)),
        RECORD_IO => {
            let record = io(bytes).ok_or(short)?;
            Ok(RawRecord::Io(record.header, Box::new(record.event)))
        }
        RECORD_MARK => {
            let record = mark(bytes).ok_or(short)?;
            Ok(RawRecord::Mark(record.header, Box::new(record.event)))
        }
        RECORD_BLOCK => Ok(RawRecord::Block(block(bytes).ok_or(short)?)),
        RECORD_CODE => {
            let time_ns = u64_at(bytes, offset_of!(CodeRecord, time_ns)).ok_or(short)?;
            Ok(RawRecord::Code(RawCode {
                pid: word(offset_of!(CodeRecord, pid))?,
                instance: word(offset_of!(CodeRecord, instance))?,
                identity: NonZeroU32::new(word(offset_of!(CodeRecord, identity))?),
                time_ns,
                fingerprint: u64_at(bytes, offset_of!(CodeRecord, fingerprint))
                    .ok_or(DecodeError::Short(bytes.len()))?,
                bytes,
            }))
        }
        kind => Err(DecodeError::UnknownKind(kind)),
    }
}

fn header(bytes: &[u8]) -> Option<SampleHeader> {
    let bytes = bytes.get(..size_of::<SampleHeader>())?;
    // SAFETY: `SampleHeader` is `repr(C)` and made of integers, so any bytes of its size are one.
    Some(unsafe { bytes.as_ptr().cast::<SampleHeader>().read_unaligned() })
}

fn memory(bytes: &[u8]) -> Option<MemoryRecord> {
    let bytes = bytes.get(..size_of::<MemoryRecord>())?;
    // SAFETY: `MemoryRecord` is `repr(C)` and made of integers, so any bytes of its size are one.
    Some(unsafe { bytes.as_ptr().cast::<MemoryRecord>().read_unaligned() })
}

fn block(bytes: &[u8]) -> Option<BlockRecord> {
    let bytes = bytes.get(..size_of::<BlockRecord>())?;
    // SAFETY: `BlockRecord` is `repr(C)` and made of integers, so any bytes of its size are one.
    Some(unsafe { bytes.as_ptr().cast::<BlockRecord>().read_unaligned() })
}

fn call(bytes: &[u8]) -> Option<CallRecord> {
    let bytes = bytes.get(..size_of::<CallRecord>())?;
    // SAFETY: `CallRecord` is `repr(C)` and made of integers, so any bytes of its size are one.
    Some(unsafe { bytes.as_ptr().cast::<CallRecord>().read_unaligned() })
}

fn began(bytes: &[u8]) -> Option<BeganRecord> {
    let bytes = bytes.get(..size_of::<BeganRecord>())?;
    // SAFETY: `BeganRecord` is `repr(C)` and made of integers, so any bytes of its size are one.
    Some(unsafe { bytes.as_ptr().cast::<BeganRecord>().read_unaligned() })
}

fn wait(bytes: &[u8]) -> Option<WaitRecord> {
    let bytes = bytes.get(..size_of::<WaitRecord>())?;
    // SAFETY: `WaitRecord` is `repr(C)` and made of integers, so any bytes of its size are one.
    Some(unsafe { bytes.as_ptr().cast::<WaitRecord>().read_unaligned() })
}

fn stall(bytes: &[u8]) -> Option<StallRecord> {
    let bytes = bytes.get(..size_of::<StallRecord>())?;
    // SAFETY: `StallRecord` is `repr(C)` and made of integers, so any bytes of its size are one.
    Some(unsafe { bytes.as_ptr().cast::<StallRecord>().read_unaligned() })
}

fn io(bytes: &[u8]) -> Option<IoRecord> {
    let bytes = bytes.get(..size_of::<IoRecord>())?;
    // SAFETY: `IoRecord` is `repr(C)` and made of integers, so any bytes of its size are one.
    Some(unsafe { bytes.as_ptr().cast::<IoRecord>().read_unaligned() })
}

fn mark(bytes: &[u8]) -> Option<MarkRecord> {
    let bytes = bytes.get(..size_of::<MarkRecord>())?;
    // SAFETY: `MarkRecord` is `repr(C)` and made of integers, so any bytes of its size are one.
    Some(unsafe { bytes.as_ptr().cast::<MarkRecord>().read_unaligned() })
}

fn stack(bytes: &[u8], python_status: u32) -> Option<RawStack> {
    let len = |at: usize, most: usize| Some((u32_at(bytes, at)? as usize).min(most));
    let kernel_len = len(offset_of!(StackRecord, kernel_len), MAX_KERNEL_ADDRESSES)?;
    let native_len = len(offset_of!(StackRecord, native_len), MAX_NATIVE_ADDRESSES)?;
    let place = u64_at(bytes, offset_of!(StackRecord, place))?;
    let python_len = len(offset_of!(StackRecord, python_len), MAX_PYTHON_FRAMES)?;
    let mut words = bytes
        .get(offset_of!(StackRecord, words)..)?
        .as_chunks()
        .0
        .iter()
        .map(|word| u64::from_le_bytes(*word));
    let mut take = |len: usize| (0..len).map(|_| words.next()).collect::<Option<Box<[u64]>>>();
    let (kernel, native) = (take(kernel_len)?, take(native_len)?);
    let frames = take(python_len * PYTHON_FRAME_WORDS)?;
    let python = frames
        .as_chunks()
        .0
        .iter()
        .map(|&[code, instruction, fingerprint]| PythonFrame {
            code,
            instruction,
            fingerprint,
        })
        .collect();
    Some(RawStack {
        kernel,
        native,
        native_status: u32_at(bytes, offset_of!(StackRecord, native_status))?,
        python,
        python_flags: u32_at(bytes, offset_of!(StackRecord, python_flags))?,
        python_status,
        place: StackKey {
            hash: [place, u64_at(bytes, offset_of!(StackRecord, place) + 8)?],
        },
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stack_cut_after_its_frames_is_whole_and_one_byte_less_is_not() {
        let mut bytes = vec![0u8; offset_of!(StackRecord, words) + 8 * (1 + 2 * PYTHON_FRAME_WORDS)];
        bytes[0] = RECORD_STACK as u8;
        bytes[offset_of!(StackRecord, python_len)] = 2;
        bytes[offset_of!(StackRecord, native_len)] = 1;
        bytes[offset_of!(StackRecord, words)] = 7;
        bytes[offset_of!(StackRecord, words) + 8] = 9;
        let Ok(RawRecord::Stack(_, stack)) = decode(&bytes) else {
            panic!("a whole record")
        };
        assert_eq!(
            (stack.kernel.len(), &*stack.native, stack.python.len()),
            (0, &[7][..], 2)
        );
        assert_eq!(stack.python[0].code, 9);
        assert_eq!(
            decode(&bytes[..bytes.len() - 1]).unwrap_err(),
            DecodeError::Short(bytes.len() - 1)
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(kind in 0u8..14, mut bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = decode(&bytes);
        }
    }
}
