//! What guests of these tests see of the world, and how it is written down: a log, a table of objects, and as
//! much of WASI as a compiled program needs to print.

use bowline_checkpoint::engine::Handle;
use wasmtime::{Caller, ExternRef, Linker, Memory, Rooted};

/// The host's state of one guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    pub log: Vec<u8>,
    /// The program's name and what follows it.
    pub arguments: Vec<String>,
}

impl World {
    /// The state as a checkpoint holds it.
    pub fn save(&self) -> Vec<u8> {
        self.log.clone()
    }

    pub fn restore(host: &[u8]) -> Self {
        Self {
            log: host.to_vec(),
            arguments: Vec::new(),
        }
    }
}

/// Gives a guest what it may import.
pub fn link(linker: &mut Linker<World>) -> wasmtime::Result<()> {
    linker.func_wrap("host", "log", |mut caller: Caller<'_, World>, number: i32| {
        caller.data_mut().log.extend_from_slice(&number.to_le_bytes());
    })?;
    linker.func_wrap("host", "object", |mut caller: Caller<'_, World>, number: i64| {
        ExternRef::new(&mut caller, Handle(number.cast_unsigned())).map(Some)
    })?;
    linker.func_wrap(
        "host",
        "number",
        |caller: Caller<'_, World>, object: Option<Rooted<ExternRef>>| -> wasmtime::Result<i64> {
            let Some(object) = object else { return Ok(-1) };
            let data = object.data(&caller)?.and_then(|data| data.downcast_ref::<Handle>());
            Ok(data.expect("all objects are handles").0.cast_signed())
        },
    )?;
    link_wasi(linker)
}

fn link_wasi(linker: &mut Linker<World>) -> wasmtime::Result<()> {
    let wasi = "wasi_snapshot_preview1";
    linker.func_wrap(
        wasi,
        "fd_write",
        |mut caller: Caller<'_, World>, _fd: i32, vectors: i32, count: i32, written: i32| -> wasmtime::Result<i32> {
            let memory = memory_of(&mut caller);
            let (data, world) = memory.data_and_store_mut(&mut caller);
            let word = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().expect("four bytes")) as usize;
            let mut bytes = Vec::new();
            for index in 0..count as usize {
                let vector = vectors as usize + 8 * index;
                let (from, length) = (word(vector), word(vector + 4));
                bytes.extend_from_slice(&data[from..from + length]);
            }
            world.log.extend_from_slice(&bytes);
            let written = written as usize;
            data[written..written + 4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            Ok(0)
        },
    )?;
    for (name, has_arguments) in [("environ_sizes_get", false), ("args_sizes_get", true)] {
        linker.func_wrap(
            wasi,
            name,
            move |mut caller: Caller<'_, World>, count: i32, bytes: i32| -> wasmtime::Result<i32> {
                let memory = memory_of(&mut caller);
                let arguments = caller.data().arguments.iter().filter(|_| has_arguments);
                let lengths: Vec<usize> = arguments.map(|argument| argument.len() + 1).collect();
                memory.write(&mut caller, count as usize, &(lengths.len() as u32).to_le_bytes())?;
                memory.write(
                    &mut caller,
                    bytes as usize,
                    &(lengths.iter().sum::<usize>() as u32).to_le_bytes(),
                )?;
                Ok(0)
            },
        )?;
    }
    link_descriptors(linker)?;
    linker.func_wrap(wasi, "environ_get", |_: i32, _: i32| 0)?;
    linker.func_wrap(
        wasi,
        "args_get",
        |mut caller: Caller<'_, World>, mut places: i32, mut bytes: i32| -> wasmtime::Result<i32> {
            let memory = memory_of(&mut caller);
            for argument in caller.data().arguments.clone() {
                memory.write(&mut caller, places as usize, &bytes.to_le_bytes())?;
                memory.write(&mut caller, bytes as usize, format!("{argument}\0").as_bytes())?;
                places += 4;
                bytes += argument.len() as i32 + 1;
            }
            Ok(0)
        },
    )?;
    linker.func_wrap(wasi, "proc_exit", |code: i32| -> wasmtime::Result<()> {
        wasmtime::bail!("the guest exited with {code}")
    })?;
    linker.func_wrap(
        wasi,
        "random_get",
        |mut caller: Caller<'_, World>, at: i32, length: i32| -> wasmtime::Result<i32> {
            let memory = memory_of(&mut caller);
            memory.write(&mut caller, at as usize, &vec![7; length as usize])?;
            Ok(0)
        },
    )?;
    Ok(())
}

/// Standard output is a device that cannot seek; it is always the same time.
fn link_descriptors(linker: &mut Linker<World>) -> wasmtime::Result<()> {
    const DEVICE: u8 = 2;
    const NOT_SEEKABLE: i32 = 70;
    let wasi = "wasi_snapshot_preview1";
    linker.func_wrap(wasi, "fd_close", |_: i32| 0)?;
    linker.func_wrap(wasi, "fd_seek", |_: i32, _: i64, _: i32, _: i32| NOT_SEEKABLE)?;
    linker.func_wrap(
        wasi,
        "fd_fdstat_get",
        |mut caller: Caller<'_, World>, _: i32, at: i32| -> wasmtime::Result<i32> {
            let mut status = [0; 24];
            status[0] = DEVICE;
            memory_of(&mut caller).write(&mut caller, at as usize, &status)?;
            Ok(0)
        },
    )?;
    linker.func_wrap(
        wasi,
        "clock_time_get",
        |mut caller: Caller<'_, World>, _: i32, _: i64, at: i32| -> wasmtime::Result<i32> {
            memory_of(&mut caller).write(&mut caller, at as usize, &[0; 8])?;
            Ok(0)
        },
    )?;
    Ok(())
}

fn memory_of(caller: &mut Caller<'_, World>) -> Memory {
    let export = caller.get_export("memory").and_then(wasmtime::Extern::into_memory);
    export.expect("WASI guests export their memory")
}
