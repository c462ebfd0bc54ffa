//! Lines that a thread of their own writes, so that whoever has them never waits.
//!
//! A reader that stalls (a full pipe, a slow or full disk) must keep no connection waiting.
//! So lines wait here, and those that find no room are dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::time::Duration;

/// How many bytes may wait.
pub const ROOM: usize = 4 << 20;

/// So much is written at once.
const CHUNK: usize = 64 << 10;

/// How long lines gather after some were written: to be woken for each of many would cost
/// more than to write them. The first after a rest is written at once.
const GATHER: Duration = Duration::from_millis(2);

/// How long the end of the process waits for what is still to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where the lines go.
pub trait Sink: Send + 'static {
    /// Writes lines, and takes as long as that takes.
    fn write(&mut self, lines: &[u8]);

    /// So many lines found no room since this was called last. Their place is behind the
    /// lines that were written last.
    fn dropped(&mut self, count: u64);
}

enum Message {
    Line(String),
    /// Everything before is to be written, and then this is to be told.
    Flush(SyncSender<()>),
}

/// Hands lines to the thread. Clones share it; it ends with the last of them.
#[derive(Clone, Debug)]
pub struct LineWriter {
    queue: Sender<Message>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: AtomicUsize,
    /// Dropped, and the sink does not know of it yet.
    untold: AtomicU64,
    dropped: AtomicU64,
}

impl LineWriter {
    /// Starts the thread. If there can be none, every line comes back.
    pub fn start(name: &str, mut sink: impl Sink) -> Self {
        let (queue, lines) = mpsc::channel();
        let state = Arc::new(State::default());
        let writing = Arc::clone(&state);
        let _ = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || write_all(&lines, &writing, &mut sink));
        Self { queue, state }
    }

    /// Has a line written, soon and in order; it ends with a line feed. It comes back when
    /// there is no thread that could.
    ///
    /// # Errors
    /// Then; a line that finds no room is dropped, and that is no error.
    pub fn write(&self, line: String) -> Result<(), String> {
        let (length, state) = (line.len(), &self.state);
        if state.waiting.fetch_add(length, Ordering::AcqRel) + length > ROOM {
            state.waiting.fetch_sub(length, Ordering::AcqRel);
            state.dropped.fetch_add(1, Ordering::Relaxed);
            state.untold.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        match self.queue.send(Message::Line(line)) {
            Err(mpsc::SendError(Message::Line(line))) => {
                state.waiting.fetch_sub(length, Ordering::AcqRel);
                Err(line)
            }
            _ => Ok(()),
        }
    }

    /// How many lines found no room since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is written, but not for long.
    pub fn flush(&self) {
        let (written, done) = mpsc::sync_channel(1);
        if self.queue.send(Message::Flush(written)).is_ok() {
            let _ = done.recv_timeout(LAST_WORDS);
        }
    }
}

fn write_all(lines: &Receiver<Message>, state: &State, sink: &mut impl Sink) {
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
        sink.write(&chunk);
        state.waiting.fetch_sub(chunk.len(), Ordering::AcqRel);
        let dropped = state.untold.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            sink.dropped(dropped);
        }
        let more = chunk.len() >= CHUNK;
        chunk.clear();
        if let Some(written) = flushed {
            let _ = written.try_send(());
        } else if !more {
            std::thread::sleep(GATHER);
        }
    }
}
