//! WASI preview 1 for core modules: standard streams, environment, clocks, randomness and waiting.
//!
//! Written here and not taken from `wasmtime-wasi` because a guest has no files and no sockets, which
//! leaves so little that an invocation need not build (and pay for) a general context. Whatever touches
//! files answers `badf`: no folder is ever opened, so no descriptor but the three streams exists.

mod streaming;

use std::time::Duration;

use wasmtime::{Caller, Engine, Extern, FuncType, Linker, Memory, Result, Val, ValType, bail};

use crate::guest::{Guest, Stdout};

pub(crate) use streaming::redefine;

/// The import module of WASI preview 1.
pub(crate) const MODULE: &str = "wasi_snapshot_preview1";

/// Error numbers of preview 1.
mod errno {
    pub(super) const SUCCESS: i32 = 0;
    pub(super) const BADF: i32 = 8;
    pub(super) const FAULT: i32 = 21;
    pub(super) const INVAL: i32 = 28;
    pub(super) const NOTSUP: i32 = 58;
    pub(super) const SPIPE: i32 = 70;
}

/// Buffers in one scatter or gather list; bounds the time of one call.
const VECTORS_MAX: u32 = 1024;
/// Random bytes of one call; bounds its time.
const RANDOM_BYTES_MAX: u32 = 16 * 1024 * 1024;

const STDIN: i32 = 0;
const STDOUT: i32 = 1;
const STDERR: i32 = 2;

/// Functions that a guest may import but that always answer the same: name, parameters, error.
/// `i` is a 32-bit parameter, `I` a 64-bit one.
const REFUSED: [(&str, &str, i32); 31] = [
    ("fd_advise", "iIIi", errno::BADF),
    ("fd_allocate", "iII", errno::BADF),
    ("fd_datasync", "i", errno::BADF),
    ("fd_fdstat_set_flags", "ii", errno::BADF),
    ("fd_fdstat_set_rights", "iII", errno::BADF),
    ("fd_filestat_set_size", "iI", errno::BADF),
    ("fd_filestat_set_times", "iIIi", errno::BADF),
    ("fd_pread", "iiiIi", errno::BADF),
    ("fd_prestat_get", "ii", errno::BADF),
    ("fd_prestat_dir_name", "iii", errno::BADF),
    ("fd_pwrite", "iiiIi", errno::BADF),
    ("fd_readdir", "iiiIi", errno::BADF),
    ("fd_renumber", "ii", errno::BADF),
    ("fd_seek", "iIii", errno::SPIPE),
    ("fd_sync", "i", errno::BADF),
    ("fd_tell", "ii", errno::SPIPE),
    ("path_create_directory", "iii", errno::BADF),
    ("path_filestat_get", "iiiii", errno::BADF),
    ("path_filestat_set_times", "iiiiIIi", errno::BADF),
    ("path_link", "iiiiiii", errno::BADF),
    ("path_open", "iiiiiIIii", errno::BADF),
    ("path_readlink", "iiiiii", errno::BADF),
    ("path_remove_directory", "iii", errno::BADF),
    ("path_rename", "iiiiii", errno::BADF),
    ("path_symlink", "iiiii", errno::BADF),
    ("path_unlink_file", "iii", errno::BADF),
    ("proc_raise", "i", errno::NOTSUP),
    ("sock_accept", "iii", errno::BADF),
    ("sock_recv", "iiiiii", errno::BADF),
    ("sock_send", "iiiii", errno::BADF),
    ("sock_shutdown", "ii", errno::BADF),
];

const SERVED: [&str; 15] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_close",
    "fd_fdstat_get",
    "fd_filestat_get",
    "fd_read",
    "fd_write",
    "poll_oneoff",
    "proc_exit",
    "random_get",
    "sched_yield",
];

/// Whether preview 1 has a function of this name.
pub(crate) fn provides(name: &str) -> bool {
    SERVED.contains(&name) || REFUSED.iter().any(|(refused, ..)| *refused == name)
}

/// The guest asked to end with this status.
#[derive(Debug, thiserror::Error)]
#[error("exit status {0}")]
pub(crate) struct Exit(pub(crate) i32);

/// Defines all of preview 1.
pub(crate) fn define(linker: &mut Linker<Guest>) -> Result<()> {
    let engine = linker.engine().clone();
    for (name, parameters, error) in REFUSED {
        linker.func_new(
            MODULE,
            name,
            function_type(&engine, parameters),
            move |_, _, results| {
                results[0] = Val::I32(error);
                Ok(())
            },
        )?;
    }
    linker.func_wrap(
        MODULE,
        "args_sizes_get",
        |mut caller: Caller<'_, Guest>, count, bytes| {
            let mut view = View::of(&mut caller)?;
            Ok(code(view.put_u32(count, 0).and_then(|()| view.put_u32(bytes, 0))))
        },
    )?;
    linker.func_wrap(MODULE, "args_get", |_: i32, _: i32| errno::SUCCESS)?;
    linker.func_wrap(MODULE, "environ_sizes_get", environ_sizes_get)?;
    linker.func_wrap(MODULE, "environ_get", environ_get)?;
    linker.func_wrap(MODULE, "clock_res_get", clock_res_get)?;
    linker.func_wrap(MODULE, "clock_time_get", clock_time_get)?;
    linker.func_wrap(MODULE, "fd_close", |descriptor: i32| stream_or_badf(descriptor))?;
    linker.func_wrap(MODULE, "fd_fdstat_get", fd_fdstat_get)?;
    linker.func_wrap(MODULE, "fd_filestat_get", fd_filestat_get)?;
    linker.func_wrap(MODULE, "fd_read", fd_read)?;
    linker.func_wrap(MODULE, "fd_write", fd_write)?;
    linker.func_wrap(MODULE, "random_get", random_get)?;
    linker.func_wrap(MODULE, "sched_yield", || errno::SUCCESS)?;
    linker.func_wrap(MODULE, "proc_exit", |status: i32| -> Result<()> {
        Err(wasmtime::Error::new(Exit(status)))
    })?;
    linker.func_wrap_async(MODULE, "poll_oneoff", |caller, parameters| {
        Box::new(poll_oneoff(caller, parameters))
    })?;
    Ok(())
}

fn function_type(engine: &Engine, parameters: &str) -> FuncType {
    let parameters = parameters
        .bytes()
        .map(|letter| if letter == b'I' { ValType::I64 } else { ValType::I32 });
    FuncType::new(engine, parameters, [ValType::I32])
}

fn code(result: Result<(), Fault>) -> i32 {
    match result {
        Ok(()) => errno::SUCCESS,
        Err(Fault) => errno::FAULT,
    }
}

fn stream_or_badf(descriptor: i32) -> i32 {
    if (STDIN..=STDERR).contains(&descriptor) {
        errno::SUCCESS
    } else {
        errno::BADF
    }
}

/// An address outside the guest's memory.
#[derive(Debug)]
struct Fault;

/// The guest's memory with its state.
struct View<'a> {
    bytes: &'a mut [u8],
    guest: &'a mut Guest,
}

impl<'a> View<'a> {
    fn of(caller: &'a mut Caller<'_, Guest>) -> Result<Self> {
        let memory = memory_of(caller)?;
        let (bytes, guest) = memory.data_and_store_mut(caller);
        Ok(Self { bytes, guest })
    }

    fn range(&mut self, at: u32, length: u32) -> Result<&mut [u8], Fault> {
        let start = at as usize;
        let end = start.checked_add(length as usize).ok_or(Fault)?;
        self.bytes.get_mut(start..end).ok_or(Fault)
    }

    fn put(&mut self, at: u32, bytes: &[u8]) -> Result<(), Fault> {
        let length = u32::try_from(bytes.len()).map_err(|_| Fault)?;
        self.range(at, length)?.copy_from_slice(bytes);
        Ok(())
    }

    fn put_u32(&mut self, at: u32, value: u32) -> Result<(), Fault> {
        self.put(at, &value.to_le_bytes())
    }

    fn get<const N: usize>(&mut self, at: u32) -> Result<[u8; N], Fault> {
        let length = u32::try_from(N).map_err(|_| Fault)?;
        let found = self.range(at, length)?;
        Ok(std::array::from_fn(|index| found[index]))
    }

    fn get_u32(&mut self, at: u32) -> Result<u32, Fault> {
        self.get(at).map(u32::from_le_bytes)
    }

    /// The buffers of a scatter or gather list.
    fn vector(&mut self, list: u32, index: u32) -> Result<(u32, u32), Fault> {
        let at = index
            .checked_mul(8)
            .and_then(|offset| list.checked_add(offset))
            .ok_or(Fault)?;
        Ok((self.get_u32(at)?, self.get_u32(at.checked_add(4).ok_or(Fault)?)?))
    }
}

fn memory_of(caller: &mut Caller<'_, Guest>) -> Result<Memory> {
    if let Some(memory) = caller.data().memory {
        return Ok(memory);
    }
    // Only a `start` function runs before the memory was looked up.
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => {
            caller.data_mut().memory = Some(memory);
            Ok(memory)
        }
        _ => bail!("the module exports no memory"),
    }
}

fn environ_sizes_get(mut caller: Caller<'_, Guest>, count_at: u32, bytes_at: u32) -> Result<i32> {
    let mut view = View::of(&mut caller)?;
    let (count, bytes) = view.guest.environment_sizes();
    Ok(code(
        view.put_u32(count_at, count)
            .and_then(|()| view.put_u32(bytes_at, bytes)),
    ))
}

fn environ_get(mut caller: Caller<'_, Guest>, pointers_at: u32, text_at: u32) -> Result<i32> {
    let mut view = View::of(&mut caller)?;
    let surroundings = view.guest.surroundings.clone();
    let own = view.guest.call_environment.take();
    let blocks = [Some(&surroundings.environment), own.as_ref()];
    let mut write = || {
        let (mut pointer_at, mut text_at) = (pointers_at, text_at);
        for block in blocks.into_iter().flatten() {
            view.put(text_at, block.text())?;
            for offset in block.offsets() {
                view.put_u32(pointer_at, text_at.checked_add(offset).ok_or(Fault)?)?;
                pointer_at = pointer_at.checked_add(4).ok_or(Fault)?;
            }
            let length = u32::try_from(block.text().len()).map_err(|_| Fault)?;
            text_at = text_at.checked_add(length).ok_or(Fault)?;
        }
        Ok(())
    };
    let result = write();
    view.guest.call_environment = own;
    Ok(code(result))
}

fn clock_res_get(mut caller: Caller<'_, Guest>, clock: i32, at: u32) -> Result<i32> {
    if !(0..=1).contains(&clock) {
        return Ok(errno::INVAL);
    }
    let mut view = View::of(&mut caller)?;
    Ok(code(view.put(at, &1_000_u64.to_le_bytes())))
}

fn clock_time_get(mut caller: Caller<'_, Guest>, clock: i32, _precision: i64, at: u32) -> Result<i32> {
    let Some(nanos) = caller.data().clock_nanos(clock) else {
        return Ok(errno::INVAL);
    };
    let mut view = View::of(&mut caller)?;
    Ok(code(view.put(at, &nanos.to_le_bytes())))
}

fn fd_fdstat_get(mut caller: Caller<'_, Guest>, descriptor: i32, at: u32) -> Result<i32> {
    const RIGHT_READ: u64 = 1 << 1;
    const RIGHT_WRITE: u64 = 1 << 6;
    const RIGHT_POLL: u64 = 1 << 27;
    let rights = match descriptor {
        STDIN => RIGHT_READ | RIGHT_POLL,
        STDOUT | STDERR => RIGHT_WRITE | RIGHT_POLL,
        _ => return Ok(errno::BADF),
    };
    // File type `unknown`, so that the guest's library takes the stream for no terminal and buffers it.
    let mut stat = [0_u8; 24];
    stat[8..16].copy_from_slice(&rights.to_le_bytes());
    let mut view = View::of(&mut caller)?;
    Ok(code(view.put(at, &stat)))
}

fn fd_filestat_get(mut caller: Caller<'_, Guest>, descriptor: i32, at: u32) -> Result<i32> {
    if stream_or_badf(descriptor) != errno::SUCCESS {
        return Ok(errno::BADF);
    }
    let mut view = View::of(&mut caller)?;
    Ok(code(view.put(at, &[0; 64])))
}

fn fd_read(mut caller: Caller<'_, Guest>, descriptor: i32, list: u32, count: u32, read_at: u32) -> Result<i32> {
    if descriptor != STDIN {
        return Ok(errno::BADF);
    }
    if count > VECTORS_MAX {
        return Ok(errno::INVAL);
    }
    let mut view = View::of(&mut caller)?;
    let mut read = || {
        let mut total = 0_u32;
        for index in 0..count {
            let (at, length) = view.vector(list, index)?;
            let available = view.guest.stdin.len().min(length as usize);
            let part = view.guest.stdin.split_to(available);
            view.put(at, &part)?;
            total += u32::try_from(available).map_err(|_| Fault)?;
            if available < length as usize {
                break;
            }
        }
        view.put_u32(read_at, total)
    };
    Ok(code(read()))
}

fn fd_write(mut caller: Caller<'_, Guest>, descriptor: i32, list: u32, count: u32, written_at: u32) -> Result<i32> {
    if descriptor != STDOUT && descriptor != STDERR {
        return Ok(errno::BADF);
    }
    if count > VECTORS_MAX {
        return Ok(errno::INVAL);
    }
    let mut view = View::of(&mut caller)?;
    let mut write = || {
        let mut total = 0_u32;
        for index in 0..count {
            let (at, length) = view.vector(list, index)?;
            let start = at as usize;
            let end = start.checked_add(length as usize).ok_or(Fault)?;
            let bytes = view.bytes.get(start..end).ok_or(Fault)?;
            match &mut view.guest.stdout {
                Stdout::Answer(answer) if descriptor == STDOUT => answer.extend(bytes),
                _ => view.guest.surroundings.log.write(bytes),
            }
            total = total.checked_add(length).ok_or(Fault)?;
        }
        view.put_u32(written_at, total)
    };
    Ok(code(write()))
}

fn random_get(mut caller: Caller<'_, Guest>, at: u32, length: u32) -> Result<i32> {
    if length > RANDOM_BYTES_MAX {
        return Ok(errno::INVAL);
    }
    let mut view = View::of(&mut caller)?;
    let surroundings = view.guest.surroundings.clone();
    let filled = view.range(at, length).map(|bytes| surroundings.entropy.fill(bytes));
    Ok(code(filled))
}

/// One thing that `poll_oneoff` waits for.
struct Subscription {
    user_data: [u8; 8],
    kind: u8,
    /// How long until it happens; `None` if what was asked for does not exist.
    wait: Option<Duration>,
}

const KIND_CLOCK: u8 = 0;
const SUBSCRIPTION_BYTES: u32 = 48;
const EVENT_BYTES: u32 = 32;
/// More subscriptions than descriptors and clocks could ever need.
const SUBSCRIPTIONS_MAX: u32 = 1024;

async fn poll_oneoff(
    mut caller: Caller<'_, Guest>,
    (list, events, count, happened_at): (u32, u32, u32, u32),
) -> Result<i32> {
    if count == 0 || count > SUBSCRIPTIONS_MAX {
        return Ok(errno::INVAL);
    }
    let Ok(waited) = subscriptions(&mut View::of(&mut caller)?, list, count) else {
        return Ok(errno::FAULT);
    };
    let shortest = waited.iter().map(|one| one.wait.unwrap_or_default()).min();
    let shortest = shortest.unwrap_or_default();
    if shortest > Duration::ZERO {
        tokio::time::sleep(shortest).await;
    }
    let mut view = View::of(&mut caller)?;
    let mut report = || {
        let due = waited.iter().filter(|one| one.wait.unwrap_or_default() <= shortest);
        let mut happened = 0_u32;
        for one in due {
            let mut event = [0_u8; EVENT_BYTES as usize];
            event[..8].copy_from_slice(&one.user_data);
            if one.wait.is_none() {
                event[8..10].copy_from_slice(&(errno::BADF as u16).to_le_bytes());
            }
            event[10] = one.kind;
            let offset = happened.checked_mul(EVENT_BYTES).ok_or(Fault)?;
            view.put(events.checked_add(offset).ok_or(Fault)?, &event)?;
            happened += 1;
        }
        view.put_u32(happened_at, happened)
    };
    Ok(code(report()))
}

fn subscriptions(view: &mut View<'_>, list: u32, count: u32) -> Result<Vec<Subscription>, Fault> {
    let read = |index: u32| {
        let offset = index.checked_mul(SUBSCRIPTION_BYTES).ok_or(Fault)?;
        let raw: [u8; SUBSCRIPTION_BYTES as usize] = view.get(list.checked_add(offset).ok_or(Fault)?)?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| raw[at + index]));
        let kind = raw[8];
        let target = (word(16) & 0xffff_ffff) as i32;
        let wait = if kind == KIND_CLOCK {
            let absolute = raw[40] & 1 == 1;
            view.guest.clock_nanos(target).map(|now| {
                let nanos = if absolute {
                    word(24).saturating_sub(now)
                } else {
                    word(24)
                };
                Duration::from_nanos(nanos)
            })
        } else {
            // The three streams never block.
            (stream_or_badf(target) == errno::SUCCESS).then_some(Duration::ZERO)
        };
        Ok(Subscription {
            user_data: std::array::from_fn(|index| raw[index]),
            kind,
            wait,
        })
    };
    (0..count).map(read).collect()
}
