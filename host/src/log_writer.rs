//! Log lines go to standard error by a thread of their own.
//!
//! A reader that stalls (a full pipe, a slow disk) must keep no connection waiting. So lines
//! wait here, and those that find no room are dropped and counted; the count is logged as
//! soon as somebody reads again.

use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::Duration;

/// How many bytes may wait.
const ROOM: usize = 4 << 20;

/// So much is written at once.
const CHUNK: usize = 64 << 10;

/// How long the end of the process waits for what is still to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

enum Message {
    Line(String),
    /// Everything before is to be written, and then this is to be told.
    Flush(SyncSender<()>),
}

struct Writer {
    queue: Sender<Message>,
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

static WRITER: OnceLock<Writer> = OnceLock::new();

/// Starts the thread. Without it lines are written at once.
pub(crate) fn start() {
    let (queue, lines) = mpsc::channel();
    let writer = Writer {
        queue,
        waiting: AtomicUsize::new(0),
        dropped: AtomicU64::new(0),
    };
    if WRITER.set(writer).is_ok() {
        let name = "log".to_owned();
        // If there can be no thread, the receiver is gone and lines are written at once.
        let _ = std::thread::Builder::new()
            .name(name)
            .spawn(move || write_all(&lines));
    }
}

/// Has a line written, soon and in order.
pub(crate) fn write(line: String) {
    let Some(writer) = WRITER.get() else {
        return now(line.as_bytes());
    };
    let length = line.len();
    if writer.waiting.fetch_add(length, Ordering::AcqRel) + length > ROOM {
        writer.waiting.fetch_sub(length, Ordering::AcqRel);
        writer.dropped.fetch_add(1, Ordering::Relaxed);
        return;
    }
    if let Err(mpsc::SendError(Message::Line(line))) = writer.queue.send(Message::Line(line)) {
        writer.waiting.fetch_sub(length, Ordering::AcqRel);
        now(line.as_bytes());
    }
}

/// Waits until everything is written, but not for long.
pub(crate) fn flush() {
    let (written, done) = mpsc::sync_channel(1);
    if let Some(writer) = WRITER.get()
        && writer.queue.send(Message::Flush(written)).is_ok()
    {
        let _ = done.recv_timeout(LAST_WORDS);
    }
}

fn write_all(lines: &Receiver<Message>) {
    let mut chunk = Vec::with_capacity(CHUNK);
    while let Ok(first) = lines.recv() {
        let mut flushed = None;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => chunk.extend_from_slice(line.as_bytes()),
                Message::Flush(written) => flushed = Some(written),
            }
            next = match &flushed {
                None if chunk.len() < CHUNK => lines.try_recv().ok(),
                _ => None,
            };
        }
        now(&chunk);
        if let Some(writer) = WRITER.get() {
            writer.waiting.fetch_sub(chunk.len(), Ordering::AcqRel);
            let dropped = writer.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "log lines were dropped: standard error was not read fast enough"
                );
            }
        }
        chunk.clear();
        if let Some(written) = flushed {
            let _ = written.try_send(());
        }
    }
}

fn now(bytes: &[u8]) {
    // Nobody is left to tell when standard error is gone.
    let _ = std::io::stderr().lock().write_all(bytes);
}
