//! The functions of preview 1.

mod files;
mod poll;

use wasmtime::{Caller, FuncType, Linker, Result, Val, ValType};

use super::HasWasi;
use super::clocks::Which;
use super::view::{Fault, View};

/// The import module of WASI preview 1.
pub const MODULE: &str = "wasi_snapshot_preview1";

/// Error numbers of preview 1.
mod errno {
    pub const SUCCESS: i32 = 0;
    pub const ACCES: i32 = 2;
    pub const BADF: i32 = 8;
    pub const FAULT: i32 = 21;
    pub const INVAL: i32 = 28;
    pub const IO: i32 = 29;
    pub const ISDIR: i32 = 31;
    pub const LOOP: i32 = 32;
    pub const MFILE: i32 = 33;
    pub const NAMETOOLONG: i32 = 37;
    pub const NOENT: i32 = 44;
    pub const NOTDIR: i32 = 54;
    pub const NOTSOCK: i32 = 57;
    pub const NOTSUP: i32 = 58;
    pub const PERM: i32 = 63;
    pub const ROFS: i32 = 69;
    pub const SPIPE: i32 = 70;
    pub const STALE: i32 = 72;
    pub const NOTCAPABLE: i32 = 76;
}

/// Buffers in one scatter or gather list; bounds the time of one call.
const VECTORS_MAX: u32 = 1024;
/// Random bytes of one call; bounds its time.
const RANDOM_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Functions that always answer the same: name, parameters, error. `i` is a 32-bit parameter, `I` a 64-bit one.
const REFUSED: [(&str, &str, i32); 20] = [
    ("fd_allocate", "iII", errno::ROFS),
    ("fd_datasync", "i", errno::ROFS),
    ("fd_fdstat_set_flags", "ii", errno::NOTSUP),
    ("fd_filestat_set_size", "iI", errno::ROFS),
    ("fd_filestat_set_times", "iIIi", errno::ROFS),
    ("fd_pwrite", "iiiIi", errno::ROFS),
    ("fd_sync", "i", errno::ROFS),
    ("path_create_directory", "iii", errno::ROFS),
    ("path_filestat_set_times", "iiiiIIi", errno::ROFS),
    ("path_link", "iiiiiii", errno::ROFS),
    ("path_remove_directory", "iii", errno::ROFS),
    ("path_rename", "iiiiii", errno::ROFS),
    ("path_symlink", "iiiii", errno::ROFS),
    ("path_unlink_file", "iii", errno::ROFS),
    ("proc_raise", "i", errno::NOTSUP),
    ("sock_accept", "iii", errno::NOTSOCK),
    ("sock_recv", "iiiiii", errno::NOTSOCK),
    ("sock_send", "iiiii", errno::NOTSOCK),
    ("sock_shutdown", "ii", errno::NOTSOCK),
    ("fd_advise", "iIIi", errno::SUCCESS),
];

/// The guest asked to end with this status.
#[derive(Debug, thiserror::Error)]
#[error("exit status {0}")]
pub struct Exit(pub i32);

/// What a call answers if it fails.
struct Errno(i32);

impl From<Fault> for Errno {
    fn from(Fault: Fault) -> Self {
        Self(errno::FAULT)
    }
}

/// A call's result as the guest sees it.
fn code(result: Result<(), Errno>) -> i32 {
    match result {
        Ok(()) => errno::SUCCESS,
        Err(Errno(error)) => error,
    }
}

/// Defines all of preview 1.
pub fn define<T: HasWasi>(linker: &mut Linker<T>) -> Result<()> {
    let engine = linker.engine().clone();
    for (name, parameters, error) in REFUSED {
        let parameters = parameters
            .bytes()
            .map(|letter| if letter == b'I' { ValType::I64 } else { ValType::I32 });
        let ty = FuncType::new(&engine, parameters, [ValType::I32]);
        linker.func_new(MODULE, name, ty, move |_, _, results| {
            results[0] = Val::I32(error);
            Ok(())
        })?;
    }
    linker.func_wrap(MODULE, "args_sizes_get", args_sizes_get::<T>)?;
    linker.func_wrap(MODULE, "args_get", args_get::<T>)?;
    linker.func_wrap(MODULE, "environ_sizes_get", environ_sizes_get::<T>)?;
    linker.func_wrap(MODULE, "environ_get", environ_get::<T>)?;
    linker.func_wrap(MODULE, "clock_res_get", clock_res_get::<T>)?;
    linker.func_wrap(MODULE, "clock_time_get", clock_time_get::<T>)?;
    linker.func_wrap(MODULE, "random_get", random_get::<T>)?;
    linker.func_wrap(MODULE, "sched_yield", || errno::SUCCESS)?;
    linker.func_wrap(MODULE, "proc_exit", |status: i32| -> Result<()> {
        Err(wasmtime::Error::new(Exit(status)))
    })?;
    linker.func_wrap(MODULE, "poll_oneoff", poll::poll_oneoff::<T>)?;
    files::define(linker)
}

fn put_sizes(view: &mut View<'_>, texts: &[String], (count_at, bytes_at): (u32, u32)) -> Result<(), Errno> {
    let fit = |size: usize| u32::try_from(size).map_err(|_| Errno(errno::FAULT));
    let bytes = texts.iter().map(|text| text.len() + 1).sum();
    view.put_u32(count_at, fit(texts.len())?)?;
    Ok(view.put_u32(bytes_at, fit(bytes)?)?)
}

fn put_texts(view: &mut View<'_>, texts: &[String], (mut pointer_at, mut text_at): (u32, u32)) -> Result<(), Errno> {
    for text in texts {
        view.put_u32(pointer_at, text_at)?;
        view.put(text_at, text.as_bytes())?;
        let end = u32::try_from(text.len())
            .ok()
            .and_then(|length| text_at.checked_add(length));
        let end = end.ok_or(Fault)?;
        view.put(end, &[0])?;
        pointer_at = pointer_at.checked_add(4).ok_or(Fault)?;
        text_at = end.checked_add(1).ok_or(Fault)?;
    }
    Ok(())
}

fn args_sizes_get<T: HasWasi>(mut caller: Caller<'_, T>, count_at: u32, bytes_at: u32) -> Result<i32> {
    let texts = caller.data_mut().wasi().arguments.clone();
    Ok(code(put_sizes(
        &mut View::of(&mut caller)?,
        &texts,
        (count_at, bytes_at),
    )))
}

fn args_get<T: HasWasi>(mut caller: Caller<'_, T>, pointers_at: u32, text_at: u32) -> Result<i32> {
    let texts = caller.data_mut().wasi().arguments.clone();
    Ok(code(put_texts(
        &mut View::of(&mut caller)?,
        &texts,
        (pointers_at, text_at),
    )))
}

fn environ_sizes_get<T: HasWasi>(mut caller: Caller<'_, T>, count_at: u32, bytes_at: u32) -> Result<i32> {
    let texts = caller.data_mut().wasi().environment.clone();
    Ok(code(put_sizes(
        &mut View::of(&mut caller)?,
        &texts,
        (count_at, bytes_at),
    )))
}

fn environ_get<T: HasWasi>(mut caller: Caller<'_, T>, pointers_at: u32, text_at: u32) -> Result<i32> {
    let texts = caller.data_mut().wasi().environment.clone();
    Ok(code(put_texts(
        &mut View::of(&mut caller)?,
        &texts,
        (pointers_at, text_at),
    )))
}

fn clock_of(number: i32) -> Option<Which> {
    match number {
        0 => Some(Which::Wall),
        1 => Some(Which::Monotonic),
        _ => None,
    }
}

fn clock_res_get<T: HasWasi>(mut caller: Caller<'_, T>, clock: i32, at: u32) -> Result<i32> {
    if clock_of(clock).is_none() {
        return Ok(errno::INVAL);
    }
    let put = View::of(&mut caller)?.put_u64(at, 1_000);
    Ok(code(put.map_err(Errno::from)))
}

fn clock_time_get<T: HasWasi>(mut caller: Caller<'_, T>, clock: i32, _precision: i64, at: u32) -> Result<i32> {
    let Some(clock) = clock_of(clock) else {
        return Ok(errno::INVAL);
    };
    let mut view = View::of(&mut caller)?;
    let nanos = view.wasi.clocks.read(clock);
    Ok(code(view.put_u64(at, nanos).map_err(Errno::from)))
}

fn random_get<T: HasWasi>(mut caller: Caller<'_, T>, at: u32, length: u32) -> Result<i32> {
    if length > RANDOM_BYTES_MAX {
        return Ok(errno::INVAL);
    }
    let mut view = View::of(&mut caller)?;
    let entropy = view.wasi.entropy.clone();
    let filled = view.range(at, length).map(|bytes| entropy.fill(bytes));
    Ok(code(filled.map_err(Errno::from)))
}
