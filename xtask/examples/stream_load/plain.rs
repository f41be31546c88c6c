//! The reference: a loop that writes the same bytes to a file with one `fdatasync` a batch.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use async_trait::async_trait;

use crate::load::{Client, Shape, Subject};

pub struct Plain {
    path: PathBuf,
}

impl Plain {
    pub fn new(folder: &Path) -> Self {
        Self {
            path: folder.join("plain"),
        }
    }
}

#[async_trait]
impl Subject for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    /// One writer for all clients: it writes what they would wait with, as if they all came at once.
    async fn clients(&mut self, shape: &Shape) -> Result<Vec<Box<dyn Client>>> {
        let events = shape.clients * shape.batch;
        Ok(vec![Box::new(Writer {
            file: File::create(&self.path)?,
            bytes: vec![b'x'; events * shape.body_bytes],
            events,
        })])
    }

    async fn clear(&mut self) -> Result<()> {
        Ok(std::fs::remove_file(&self.path)?)
    }
}

struct Writer {
    file: File,
    bytes: Vec<u8>,
    events: usize,
}

#[async_trait]
impl Client for Writer {
    async fn append(&mut self) -> Result<usize> {
        self.file.write_all(&self.bytes)?;
        self.file.sync_data()?;
        Ok(self.events)
    }
}
