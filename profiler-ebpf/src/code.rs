//! Sending code objects: names and line tables, copied at first sight so that a process which exits before user space
//! looks is still named.
//!
//! A code object is sent before the first stack that shows it, and marked as sent only once it is in the ring buffer, so
//! what fails is tried again by itself.

use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use profiler_common::{
    limits::{MAX_CODE_BYTES, MAX_CODES_PER_SAMPLE, MAX_LINE_TABLE_BYTES, MAX_PYTHON_FRAMES, MAX_STRING_BYTES},
    python::CodeKey,
    record::{CodeRecord, RECORD_CODE, SAME_AS_NAME, STRING_FILENAME, STRING_NAME, STRING_QUALNAME, STRINGS},
    stats::Counter,
};
use profiler_ebpf::{
    hash::mix_fingerprint, memory::ReadMemory as _, python::fingerprint::CodeObject, scratch::Scratch,
};

use crate::{
    context::Context,
    maps::{CODES, code_scratch, scratch},
    output,
    stats::count_in,
    user_memory::UserMemory,
};

#[repr(C)]
pub struct CodeScratch {
    record: CodeRecord,
    /// Slack behind the record's body: a copy is bounded by its start and its length, each on its own, because the
    /// verifier does not follow the sum.
    slack: [u8; MAX_LINE_TABLE_BYTES],
    /// The code object being looked at.
    object: CodeObject,
    used: u64,
}

const _: () = assert!(size_of::<CodeScratch>() <= 32 * 1024);

/// The code object at `frames[index]` is known, or was sent just now.
const KNOWN: u64 = 0;
const SENT: u64 = 1;
/// Not known, and could not be sent.
const FAILED: u64 = 2;

const FRAMES_PER_CALL: u32 = 8;
const IDENTIFIED_PER_CALL: u32 = 16;

/// Finds out which code the frames of the stack are of, whatever was known of it: an address can come to hold another
/// code object (`eval`, `exec`, reloading). What they come to together is left in `scratch.fingerprint`.
///
/// In the form of `walk::capture`.
#[inline(always)]
pub fn identify(context: Context) {
    let Some(working) = scratch(context) else { return };
    working.codes_checked = 0;
    working.fingerprint = 0;
    if let Some(code) = code_scratch(context) {
        code.object.forget();
    }
    let mut calls = 0;
    while calls < MAX_PYTHON_FRAMES as u32 / IDENTIFIED_PER_CALL {
        if identify_some(context) != 0 {
            break;
        }
        calls += 1;
    }
}

/// Goes on with a few frames; 0 if there are more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn identify_some(context: Context) -> u64 {
    let mut i = 0;
    while i < IDENTIFIED_PER_CALL {
        let Some(working) = scratch(context) else { return 1 };
        let at = working.codes_checked;
        if at >= working.record.python_len {
            return 1;
        }
        let address = address_of(working, at);
        // A function that calls itself is looked at once.
        let same = at != 0 && address_of(working, at.wrapping_sub(1)) == address;
        let fingerprint = if same {
            fingerprint_of(working, at.wrapping_sub(1))
        } else {
            fingerprint(context, address)
        };
        let Some(working) = scratch(context) else { return 1 };
        let frame = working.python_frame(at);
        // SAFETY: the pointer is to a frame in the working memory.
        unsafe { (*frame).fingerprint = fingerprint };
        mix_fingerprint(&mut working.fingerprint, fingerprint);
        working.codes_checked = at + 1;
        i += 1;
    }
    0
}

/// What tells the code object at an address from others there; 0 if there is none or it cannot be read.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fingerprint(context: Context, address: u64) -> u64 {
    let (Some(working), Some(code)) = (scratch(context), code_scratch(context)) else {
        return 0;
    };
    code.object.identify(&UserMemory, &working.process, address)
}

#[inline(always)]
fn address_of(scratch: &mut Scratch, index: u32) -> u64 {
    // SAFETY: the slot lies in the record.
    unsafe { (*scratch.python_frame(index)).code }
}

#[inline(always)]
fn fingerprint_of(scratch: &mut Scratch, index: u32) -> u64 {
    // SAFETY: the slot lies in the record.
    unsafe { (*scratch.python_frame(index)).fingerprint }
}

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
    let outcome = if is_known(working, at) {
        KNOWN
    } else {
        copy(context, at)
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

/// Whether a code object was sent. One that is called is sent for that, too.
#[inline(always)]
fn is_known(scratch: &mut Scratch, index: u32) -> bool {
    let key = key_of(scratch, index);
    // SAFETY: the value is not kept.
    scratch.identity == 0 && unsafe { CODES.get(key) }.is_some()
}

#[inline(always)]
fn key_of(scratch: &mut Scratch, index: u32) -> CodeKey {
    let (address, fingerprint) = (address_of(scratch, index), fingerprint_of(scratch, index));
    CodeKey::identified(address, scratch.process.instance, (fingerprint >> 32) as u32)
}

/// Sends one code object of the stack in the record.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy(context: Context, index: u32) -> u64 {
    let (Some(scratch), Some(code)) = (scratch(context), code_scratch(context)) else {
        return FAILED;
    };
    if index >= MAX_PYTHON_FRAMES as u32 {
        return FAILED;
    }
    let key = key_of(scratch, index);
    code.record.address = key.address;
    code.record.fingerprint = fingerprint_of(scratch, index);
    // Swapped out, or not a code object.
    if code.record.fingerprint == 0
        || !code.object.read(&UserMemory, &scratch.process, key.address)
        || !fill(scratch, code)
    {
        count_in(context, Counter::CodesUnreadable);
        return FAILED;
    }
    if !output::send_code(&code.record, code.used) {
        count_in(context, Counter::CodesRetried);
        return FAILED;
    }
    count_in(context, Counter::CodesSent);
    // A failure means that it is sent once more later.
    let _ = CODES.insert(key, 1, 0);
    SENT
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
    code.record.first_line = code.object.field(scratch.process.code_first_line);
    code.record.first_traceable = if scratch.process.code_first_traceable == 0 {
        0
    } else {
        code.object.field(scratch.process.code_first_traceable)
    };
    code.record.flags = code.object.field(scratch.process.code_flags());
    code.record.reserved = 0;
    code.used = 0;

    let name: u64 = code.object.field(scratch.process.code_name);
    let filename = code.object.field(scratch.process.code_filename);
    string(scratch, code, STRING_FILENAME, filename);
    string(scratch, code, STRING_NAME, name);
    let qualname = if scratch.process.code_qualname == 0 {
        0
    } else {
        code.object.field(scratch.process.code_qualname)
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
    if !code.object.read_head(&UserMemory, &scratch.process, address) {
        return;
    }
    let length = code.object.head_field::<u64>(scratch.process.unicode_length);
    let state = code.object.head_field::<u32>(scratch.process.unicode_state);
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
    let table: u64 = code.object.field(scratch.process.code_line_table);
    if !code.object.read_head(&UserMemory, &scratch.process, table) {
        return;
    }
    let size = code.object.head_field::<u64>(scratch.process.bytes_size);
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
