//! Sending code objects: names and line tables, copied at first sight so that a process which exits before user space
//! looks is still named.
//!
//! A code object is sent before the first stack that shows it, and marked as sent only once it is in the ring buffer, so
//! what fails is tried again by itself.

use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use profiler_common::{
    limits::{
        MAX_CODE_BYTES, MAX_CODE_OBJECT_BYTES, MAX_CODES_PER_SAMPLE, MAX_LINE_TABLE_BYTES, MAX_PYTHON_FRAMES,
        MAX_STRING_BYTES,
    },
    python::CodeKey,
    record::{CodeRecord, RECORD_CODE, SAME_AS_NAME, STRING_FILENAME, STRING_NAME, STRING_QUALNAME, STRINGS},
    stats::Counter,
};
use profiler_ebpf::{
    hash::mix_fingerprint,
    memory::{ReadMemory as _, load},
    scratch::Scratch,
};

use crate::{
    context::Context,
    maps::{CODES, code_scratch, scratch},
    output,
    stats::count,
    user_memory::UserMemory,
};

#[repr(C)]
pub struct CodeScratch {
    record: CodeRecord,
    /// Slack behind the record's body: a copy is bounded by its start and its length, each on its own, because the
    /// verifier does not follow the sum.
    slack: [u8; MAX_LINE_TABLE_BYTES],
    /// The code object being looked at.
    object: [u64; 2 * MAX_CODE_OBJECT_BYTES / 8 + 1],
    /// The head of a string or bytes object.
    head: [u64; (HEAD_MASK + 1) / 8 + 1],
    used: u64,
    fingerprint: u64,
}

const _: () = assert!(size_of::<CodeScratch>() <= 32 * 1024);

/// Bytes of a `str` or `bytes` head that hold its length and state (up to 3.15, with a GIL: 16 + 8 and 32 + 4).
const HEAD_BYTES: u32 = 40;
/// Bounds an offset into a head, for the verifier.
const HEAD_MASK: usize = 63;

const _: () = assert!(HEAD_BYTES as usize <= HEAD_MASK + 1);

/// The code object at `frames[index]` is known and unchanged, or was sent just now.
const KNOWN: u64 = 0;
const SENT: u64 = 1;
/// Not known, and could not be sent.
const FAILED: u64 = 2;

const FRAMES_PER_CALL: u32 = 8;

/// Of a new stack, so many code objects from the leaf on are compared with what was sent. Farther down only code at
/// addresses never seen is looked at: code that comes and goes is near the leaf, and the turns of [`check_some`] get
/// to the rest.
const CHECKED_NEAR_LEAF: u32 = 8;

/// Makes sure that the code objects of a new stack are sent, at most [`MAX_CODES_PER_SAMPLE`] of them. `true` if none is
/// missing.
///
/// In the form of `walk::capture`, and with its state in the scratch record: as one loop over locals it took the
/// verifier of 6.18 more than a million instructions.
#[inline(always)]
pub fn send_missing(context: Context) -> bool {
    let Some(working) = scratch(context) else { return false };
    working.codes_checked = 0;
    working.codes_sent = 0;
    working.codes_missing = 0;
    let mut calls = 0;
    while calls < MAX_PYTHON_FRAMES as u32 / FRAMES_PER_CALL {
        if send_some(context) != 0 {
            break;
        }
        calls += 1;
    }
    scratch(context).is_some_and(|scratch| scratch.codes_missing == 0)
}

/// Goes on with a few frames; 0 if there are more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn send_some(context: Context) -> u64 {
    let mut i = 0;
    while i < FRAMES_PER_CALL {
        if !send_next(context) {
            return 1;
        }
        i += 1;
    }
    0
}

/// `false` if there is nothing more to do.
#[inline(always)]
fn send_next(context: Context) -> bool {
    let Some(working) = scratch(context) else { return false };
    let at = working.codes_checked;
    if at >= working.record.python_len {
        return false;
    }
    if working.codes_sent >= MAX_CODES_PER_SAMPLE {
        working.codes_missing = 1;
        return false;
    }
    let outcome = if at < CHECKED_NEAR_LEAF || !is_known(working, at) {
        check(context, at)
    } else {
        KNOWN
    };
    let Some(scratch) = scratch(context) else { return false };
    scratch.codes_checked = at + 1;
    // An attempt costs as much as a success: both count against the limit.
    if outcome != KNOWN {
        scratch.codes_sent += 1;
    }
    if outcome == FAILED {
        scratch.codes_missing = 1;
    }
    true
}

/// Whether a code object was sent from this address.
#[inline(always)]
fn is_known(scratch: &mut Scratch, index: u32) -> bool {
    let Some(key) = key_of(scratch, index) else {
        return false;
    };
    // SAFETY: the value is not kept.
    unsafe { CODES.get(key) }.is_some()
}

#[inline(always)]
fn key_of(scratch: &mut Scratch, index: u32) -> Option<CodeKey> {
    if index >= MAX_PYTHON_FRAMES as u32 {
        return None;
    }
    // SAFETY: the slot lies in the record.
    let address = unsafe { (*scratch.python_frame(index)).code };
    Some(CodeKey {
        address,
        instance: u64::from(scratch.process.instance),
    })
}

/// Checks some of the code objects of a stack that was seen before: the leaf's and another in turn. An address can come
/// to hold another code object (`exec`, reloading); checking all at every sample would cost 80 ns a frame.
#[inline(always)]
pub fn check_some(context: Context) {
    let Some(scratch) = scratch(context) else { return };
    let len = u64::from(scratch.record.python_len);
    if len == 0 {
        return;
    }
    scratch.tick = scratch.tick.wrapping_add(1);
    let mut turn = 0;
    if scratch.tick % TURN_EVERY == 0 {
        turn = scratch.rotation.wrapping_add(1);
        if turn >= len {
            turn = 0;
        }
        scratch.rotation = turn;
    }
    check(context, 0);
    if turn != 0 {
        check(context, turn as u32);
    }
}

/// In so many samples one looks at another code object than the leaf's.
const TURN_EVERY: u64 = 4;

/// Looks at one code object of the stack in the record.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn check(context: Context, index: u32) -> u64 {
    let Some(scratch) = scratch(context) else { return FAILED };
    let Some(code) = code_scratch(context) else {
        return FAILED;
    };
    let Some(key) = key_of(scratch, index) else {
        return FAILED;
    };

    if !read_object(scratch, code, key.address) {
        // Swapped out, or not a code object. Known ones stay known.
        // SAFETY: the value is not kept.
        return if unsafe { CODES.get(key) }.is_some() {
            KNOWN
        } else {
            count(Counter::CodesUnreadable);
            FAILED
        };
    }
    // SAFETY: the value is copied out at once.
    match unsafe { CODES.get(key) } {
        Some(known) if *known == code.fingerprint => return KNOWN,
        Some(_) => count(Counter::CodesReplaced),
        None => {}
    }
    if !fill(scratch, code) {
        count(Counter::CodesUnreadable);
        return FAILED;
    }
    if !output::send_code(&code.record, code.used) {
        count(Counter::CodesRetried);
        return FAILED;
    }
    count(Counter::CodesSent);
    // A failure means that it is sent once more later.
    let _ = CODES.insert(key, code.fingerprint, 0);
    SENT
}

/// Reads the code object and the record's fixed part. `false` if there is none.
#[inline(always)]
fn read_object(scratch: &mut Scratch, code: &mut CodeScratch, address: u64) -> bool {
    // SAFETY: a reference is valid for reads.
    let bytes = u64::from(unsafe { read_volatile(&scratch.process.code_bytes) });
    if bytes > MAX_CODE_OBJECT_BYTES as u64 {
        return false;
    }
    // SAFETY: `object` is longer than MAX_CODE_OBJECT_BYTES.
    if !unsafe { UserMemory.read(address, code.object.as_mut_ptr().cast(), bytes as u32) } {
        return false;
    }
    if object_field::<u64>(code, scratch.process.object_type) != scratch.process.code_type {
        return false;
    }
    code.record.first_line = object_field(code, scratch.process.code_first_line);
    code.record.first_traceable = if scratch.process.code_first_traceable == 0 {
        0
    } else {
        object_field(code, scratch.process.code_first_traceable)
    };
    code.record.address = address;
    take_fingerprint(scratch, code)
}

/// What tells this code object from another at the same address. `false` if it cannot be told.
///
/// From 3.12 on the objects are numbered. Before, addresses alone do not do: whatever makes and drops functions in a
/// loop gets the same memory for all of their parts, so what the name and the line table hold counts too.
#[inline(always)]
fn take_fingerprint(scratch: &mut Scratch, code: &mut CodeScratch) -> bool {
    let mut fingerprint = u64::from(code.record.first_line as u32);
    let name: u64 = object_field(code, scratch.process.code_name);
    let table: u64 = object_field(code, scratch.process.code_line_table);
    mix_fingerprint(&mut fingerprint, object_field(code, scratch.process.code_filename));
    mix_fingerprint(&mut fingerprint, name);
    mix_fingerprint(&mut fingerprint, table);
    if scratch.process.code_version != 0 {
        mix_fingerprint(&mut fingerprint, object_field(code, scratch.process.code_version));
    } else {
        // `PyASCIIObject.hash` follows the length (3.8 – 3.11); names are interned, and so hashed.
        // SAFETY: `head` is longer than HEAD_BYTES.
        if !unsafe { UserMemory.read(name, code.head.as_mut_ptr().cast(), HEAD_BYTES) } {
            return false;
        }
        mix_fingerprint(&mut fingerprint, head_field(code, scratch.process.unicode_length + 8));
        // The line table's size and its first bytes.
        // SAFETY: `head` is longer than HEAD_BYTES.
        if !unsafe { UserMemory.read(table, code.head.as_mut_ptr().cast(), HEAD_BYTES) } {
            return false;
        }
        mix_fingerprint(&mut fingerprint, head_field(code, scratch.process.bytes_size));
        mix_fingerprint(&mut fingerprint, head_field(code, scratch.process.bytes_data));
    }
    code.fingerprint = fingerprint;
    true
}

/// Copies the strings and the line table. `false` if a name is not in memory (never touched since the file was mapped, or
/// swapped out): user space can have it read in, we cannot.
#[inline(always)]
fn fill(scratch: &mut Scratch, code: &mut CodeScratch) -> bool {
    code.record.kind = RECORD_CODE;
    code.record.pid = scratch.record.header.pid;
    code.record.instance = scratch.process.instance;
    // SAFETY: a plain helper call.
    code.record.time_ns = unsafe { bpf_ktime_get_ns() };
    code.record.identity = scratch.identity as u32;
    code.used = 0;

    let name: u64 = object_field(code, scratch.process.code_name);
    let filename = object_field(code, scratch.process.code_filename);
    string(scratch, code, STRING_FILENAME, filename);
    string(scratch, code, STRING_NAME, name);
    let qualname = if scratch.process.code_qualname == 0 {
        0
    } else {
        object_field(code, scratch.process.code_qualname)
    };
    // A plain function's qualified name is the very same object as its name: do not copy it twice.
    if qualname == name {
        clear(code, STRING_QUALNAME);
        code.record.strings[STRING_QUALNAME].kind = SAME_AS_NAME;
    } else {
        string(scratch, code, STRING_QUALNAME, qualname);
    }
    line_table(scratch, code);
    code.record.strings[STRING_FILENAME].kind != 0 && code.record.strings[STRING_NAME].kind != 0
}

#[inline(always)]
fn clear(code: &mut CodeScratch, index: usize) {
    // SAFETY: `index` is a constant below STRINGS (asserted below).
    let slot = unsafe { &mut *code.record.strings.as_mut_ptr().add(index) };
    slot.bytes = 0;
    slot.kind = 0;
    slot.characters = 0;
}

const _: () = assert!(STRING_FILENAME < STRINGS && STRING_NAME < STRINGS && STRING_QUALNAME < STRINGS);

/// Appends one `str`. PEP 393: `state` is a bit-field with the kind (bytes per character) in bits 2 – 4, `compact` in
/// bit 5 and `ascii` in bit 6 (3.8 – 3.15 with a GIL; cpython.md §4, cpython-new.md §1).
#[inline(always)]
fn string(scratch: &mut Scratch, code: &mut CodeScratch, index: usize, address: u64) {
    clear(code, index);
    // SAFETY: `head` is longer than HEAD_BYTES.
    if address == 0 || !unsafe { UserMemory.read(address, code.head.as_mut_ptr().cast(), HEAD_BYTES) } {
        return;
    }
    let length = head_field::<u64>(code, scratch.process.unicode_length);
    let state = head_field::<u32>(code, scratch.process.unicode_state);
    let kind = (state >> 2) & 7;
    if state & 0x20 == 0 || (kind != 1 && kind != 2 && kind != 4) {
        return;
    }
    let data = if state & 0x40 != 0 {
        scratch.process.unicode_ascii_data
    } else {
        scratch.process.unicode_compact_data
    };
    let wanted = length.wrapping_mul(u64::from(kind));
    let bytes = if length > MAX_STRING_BYTES as u64 || wanted > MAX_STRING_BYTES as u64 {
        MAX_STRING_BYTES as u64
    } else {
        wanted
    };
    if !append(
        code,
        address.wrapping_add(u64::from(data)),
        bytes,
        MAX_STRING_BYTES as u64,
    ) {
        return;
    }
    // SAFETY: `index` is a constant below STRINGS.
    let slot = unsafe { &mut *code.record.strings.as_mut_ptr().add(index) };
    slot.bytes = bytes as u32;
    slot.kind = kind;
    slot.characters = length;
}

#[inline(always)]
fn line_table(scratch: &mut Scratch, code: &mut CodeScratch) {
    code.record.line_table_address = 0;
    code.record.line_table_size = 0;
    code.record.line_table_bytes = 0;
    let table: u64 = object_field(code, scratch.process.code_line_table);
    // SAFETY: `head` is longer than HEAD_BYTES.
    if table == 0 || !unsafe { UserMemory.read(table, code.head.as_mut_ptr().cast(), HEAD_BYTES) } {
        return;
    }
    let size = head_field::<u64>(code, scratch.process.bytes_size);
    let address = table.wrapping_add(u64::from(scratch.process.bytes_data));
    code.record.line_table_address = address;
    code.record.line_table_size = if size > u64::from(u32::MAX) {
        u32::MAX
    } else {
        size as u32
    };
    if size <= MAX_LINE_TABLE_BYTES as u64 && append(code, address, size, MAX_LINE_TABLE_BYTES as u64) {
        code.record.line_table_bytes = size as u32;
    }
}

/// Appends `bytes` from `address` to the body.
#[inline(always)]
fn append(code: &mut CodeScratch, address: u64, bytes: u64, most: u64) -> bool {
    // SAFETY: references and locals are valid for reads. Volatile: see the documentation of the crate's library.
    let (used, bytes) = unsafe { (read_volatile(&code.used), read_volatile(&raw const bytes)) };
    if used > (MAX_CODE_BYTES - MAX_LINE_TABLE_BYTES) as u64 || bytes > most {
        return false;
    }
    // The bound again, as a mask next to its use: verifiers up to 6.1 forget what is known of a value on its way through
    // the stack.
    // SAFETY: a reference is valid for reads.
    let at = unsafe { read_volatile(&code.used) } as usize & (USED_SLOTS - 1);
    let body = code.record.body.as_mut_ptr();
    // SAFETY: `at` is `used`, which is inside the body, and MAX_LINE_TABLE_BYTES of slack follow it.
    if !unsafe { UserMemory.read(address, body.add(at), bytes as u32) } {
        return false;
    }
    code.used = used + bytes;
    true
}

/// A power of two above what the strings can take of the body.
const USED_SLOTS: usize = 2048;
const _: () = assert!(MAX_CODE_BYTES - MAX_LINE_TABLE_BYTES < USED_SLOTS);

/// A field of the code object.
#[inline(always)]
fn object_field<T: Copy>(code: &CodeScratch, offset: u16) -> T {
    // SAFETY: the masked offset and a word lie inside `object`, which is twice as long.
    unsafe { load(code.object.as_ptr(), usize::from(offset) & (MAX_CODE_OBJECT_BYTES - 1)) }
}

/// A field of a string's or bytes object's head.
#[inline(always)]
fn head_field<T: Copy>(code: &CodeScratch, offset: u16) -> T {
    // SAFETY: `head` is a word longer than the largest masked offset.
    unsafe { load(code.head.as_ptr(), usize::from(offset) & HEAD_MASK) }
}
