//! What happens in a folder while it happens, as the kernel tells it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// Room for some hundred events.
const BUFFER_BYTES: usize = 16 * 1024;

/// How often the kernel is asked: it keeps what happens meanwhile.
const LOOKED_EVERY: Duration = Duration::from_millis(50);

/// What happened to files; paths begin below the watched folder.
#[derive(Debug, Default)]
pub struct News {
    /// Somebody has begun to write.
    pub written: Vec<PathBuf>,
    /// A writer has closed it, or it was moved here.
    pub complete: Vec<PathBuf>,
    /// It was removed, or moved away.
    pub gone: Vec<PathBuf>,
    /// There is more than can be told: a new folder, or what was missed.
    pub look_around: bool,
}

/// Watches a folder and those below that it was told of.
pub struct Watch {
    root: PathBuf,
    kernel: OwnedFd,
    folders: HashMap<i32, PathBuf>,
}

impl Watch {
    pub fn new(root: PathBuf) -> io::Result<Self> {
        let kernel = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self {
            root,
            kernel,
            folders: HashMap::new(),
        })
    }

    /// Watches a folder from now on, if it is still there. One that is watched already is not watched twice.
    pub fn add(&mut self, folder: &Path) -> io::Result<()> {
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        // The folder itself may be named by a link.
        let flags = if folder == Path::new("") {
            flags - WatchFlags::DONT_FOLLOW
        } else {
            flags
        };
        match inotify::add_watch(&self.kernel, self.root.join(folder), flags) {
            Ok(number) => {
                self.folders.insert(number, folder.to_owned());
                Ok(())
            }
            Err(Errno::NOENT | Errno::NOTDIR) if folder != Path::new("") => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until something happens. Dropped, it loses nothing.
    pub async fn next(&mut self) -> io::Result<News> {
        loop {
            if let Some(news) = self.read()? {
                return Ok(news);
            }
            tokio::time::sleep(LOOKED_EVERY).await;
        }
    }

    /// What has happened since this was asked last, if anything.
    fn read(&mut self) -> io::Result<Option<News>> {
        let (mut news, mut any) = (News::default(), false);
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = inotify::Reader::new(&self.kernel, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    any = true;
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    tell(&mut news, &mut self.folders, (event.wd(), event.events()), name);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(any.then_some(news)),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn tell(news: &mut News, folders: &mut HashMap<i32, PathBuf>, (watch, events): (i32, ReadFlags), name: Option<&OsStr>) {
    if events.contains(ReadFlags::QUEUE_OVERFLOW) {
        news.look_around = true;
        return;
    }
    if events.contains(ReadFlags::IGNORED) {
        folders.remove(&watch);
        return;
    }
    let (Some(folder), Some(name)) = (folders.get(&watch), name) else {
        return;
    };
    if events.contains(ReadFlags::ISDIR) {
        news.look_around |= events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO | ReadFlags::MOVED_FROM);
        return;
    }
    let path = folder.join(name);
    // What happened last counts.
    for before in [&mut news.written, &mut news.complete, &mut news.gone] {
        before.retain(|other| *other != path);
    }
    if events.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
        news.complete.push(path);
    } else if events.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
        news.gone.push(path);
    } else if events.intersects(ReadFlags::CREATE | ReadFlags::MODIFY) {
        news.written.push(path);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn a_file_is_complete_when_its_writer_closes_it_or_moves_it_here() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir_in(root.path()).unwrap();
        let mut watch = Watch::new(root.path().to_owned()).unwrap();
        watch.add(Path::new("")).unwrap();
        let mut file = std::fs::File::create(root.path().join("a")).unwrap();
        file.write_all(b"half").unwrap();
        let news = watch.next().await.unwrap();
        assert_eq!((news.written, news.complete.len()), (vec![PathBuf::from("a")], 0));
        drop(file);
        assert_eq!(watch.next().await.unwrap().complete, [PathBuf::from("a")]);
        std::fs::write(elsewhere.path().join("b"), b"whole").unwrap();
        std::fs::rename(elsewhere.path().join("b"), root.path().join("b")).unwrap();
        assert_eq!(watch.next().await.unwrap().complete, [PathBuf::from("b")]);
        std::fs::remove_file(root.path().join("b")).unwrap();
        assert_eq!(watch.next().await.unwrap().gone, [PathBuf::from("b")]);
        std::fs::create_dir(root.path().join("new")).unwrap();
        assert!(watch.next().await.unwrap().look_around);
    }
}
