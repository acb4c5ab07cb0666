//! The uncompressed bytes of a layer: decompressed and hashed in a thread of their own, while the
//! one that asked writes files. A few buffers go round, however long the layer is.

use std::io::{self, BufReader, Cursor, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use flate2::bufread::MultiGzDecoder;
use oci_spec::image::Digest;

use super::UnpackError;
use crate::provisioner::hash::Hasher;

/// Bytes of a buffer, and how many there are.
const CHUNK_LEN: usize = 256 << 10;
const CHUNKS: usize = 12;
/// Largest window of zstd, as a power of 2: what `zstd` without `--ultra --long` makes, and 128 MiB
/// at most (RFC 8878 section 3.1.1.1.2 recommends 8 MiB).
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// More than this many bytes must not come out of one: text packs 10:1, and gzip packs nothing
/// better than 1032:1.
const RATIO_MAX: u64 = 200;
/// As long as no more comes out of it than this, it may be packed however well.
const RATIO_FREE: u64 = 1 << 30;

/// Where a [`super::tar::TarReader`] gets its bytes from.
pub(super) trait Chunks {
    /// What comes next, at least one byte; nothing at the end.
    fn fill(&mut self) -> Result<&[u8], UnpackError>;
    /// So many of them are done with.
    fn consume(&mut self, bytes: usize);
}

/// Runs `extract` on the uncompressed bytes of `input`, and returns with what it did the digest of
/// all of them. `extract` reads to the end, or fails.
pub(super) fn with_chunks<T>(
    input: impl Read + Send,
    hasher: Hasher,
    bytes_max: u64,
    extract: impl FnOnce(&mut Stream) -> Result<T, UnpackError>,
) -> Result<(T, Digest), UnpackError> {
    let (full, chunks) = sync_channel(CHUNKS);
    let (give_back, empty) = channel();
    for _ in 0..CHUNKS {
        give_back.send(Vec::new()).expect("the other end is in this function");
    }
    thread::scope(|scope| {
        let producer = Producer { full, empty, hasher, bytes_max };
        let spawn = thread::Builder::new().name("layer".into());
        let thread = spawn.spawn_scoped(scope, move || producer.run(input)).map_err(|source| {
            UnpackError::Io { attempted: "begin a thread for", path: "the layer".into(), source }
        })?;
        let mut stream = Stream { chunks, give_back, chunk: Vec::new(), at: 0, end: false };
        let extracted = extract(&mut stream);
        // A producer that still has something to say must not wait for anybody to take it.
        drop(stream);
        let digest = match thread.join() {
            Ok(digest) => digest,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let extracted = extracted?;
        let digest = digest.expect("whoever read to the end without an error had it all hashed");
        Ok((extracted, digest))
    })
}

/// The consumer's end.
pub(super) struct Stream {
    chunks: Receiver<Result<Vec<u8>, UnpackError>>,
    give_back: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    end: bool,
}

impl Chunks for Stream {
    fn fill(&mut self) -> Result<&[u8], UnpackError> {
        if self.at == self.chunk.len() && !self.end {
            // Nobody takes it when the producer is done.
            self.give_back.send(std::mem::take(&mut self.chunk)).ok();
            self.at = 0;
            match self.chunks.recv() {
                Ok(chunk) => self.chunk = chunk?,
                Err(_) => self.end = true,
            }
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

struct Producer {
    full: SyncSender<Result<Vec<u8>, UnpackError>>,
    empty: Receiver<Vec<u8>>,
    hasher: Hasher,
    bytes_max: u64,
}

impl Producer {
    /// The digest, if all could be read and was taken.
    fn run(mut self, input: impl Read) -> Option<Digest> {
        match self.produce(input) {
            Ok(true) => Some(self.hasher.finish()),
            Ok(false) => None,
            Err(error) => {
                // Who is not there any more has an error of its own.
                self.full.send(Err(error)).ok();
                None
            }
        }
    }

    fn produce(&mut self, input: impl Read) -> Result<bool, UnpackError> {
        let mut unpacked = 0_u64;
        let mut source = Source::of(input)?;
        loop {
            let Ok(mut chunk) = self.empty.recv() else { return Ok(false) };
            chunk.resize(CHUNK_LEN, 0);
            let read = source.read(&mut chunk)?;
            if read == 0 {
                return Ok(true);
            }
            chunk.truncate(read);
            unpacked += read as u64;
            if unpacked > self.bytes_max {
                let what = "bytes without compression";
                return Err(UnpackError::TooMuch { what, limit: self.bytes_max });
            }
            let packed = source.packed();
            if unpacked > RATIO_FREE && unpacked / RATIO_MAX > packed {
                return Err(UnpackError::Bomb { packed, unpacked });
            }
            self.hasher.update(&chunk);
            if self.full.send(Ok(chunk)).is_err() {
                return Ok(false);
            }
        }
    }
}

/// The input with its compression.
enum Source<R: Read> {
    Plain(Peeked<R>),
    Gzip(Box<MultiGzDecoder<Peeked<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, Peeked<R>>),
}

type Peeked<R> = BufReader<io::Chain<Cursor<Vec<u8>>, Counted<R>>>;

impl<R: Read> Source<R> {
    fn of(input: R) -> Result<Self, UnpackError> {
        const MAGIC_LEN: usize = 6;
        let mut counted = Counted { input, bytes: 0, failed: false };
        let mut magic = Vec::new();
        let peek = (&mut counted).take(MAGIC_LEN as u64).read_to_end(&mut magic);
        peek.map_err(|source| UnpackError::Input { source })?;
        let unsupported = |what| Err(UnpackError::Compression { what });
        let read = |magic: &[u8]| {
            BufReader::with_capacity(CHUNK_LEN, Cursor::new(magic.to_vec()).chain(counted))
        };
        match magic.as_slice() {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip(Box::new(MultiGzDecoder::new(read(&magic))))),
            // A frame, or one to be skipped (RFC 8878 section 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let decoder = zstd::stream::read::Decoder::with_buffer(read(&magic));
                let limited = decoder.and_then(|mut decoder| {
                    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                    Ok(decoder)
                });
                Ok(Self::Zstd(limited.map_err(|source| UnpackError::Damaged { source })?))
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0] => unsupported("xz"),
            [b'B', b'Z', b'h', ..] => unsupported("bzip2"),
            _ => Ok(Self::Plain(read(&magic))),
        }
    }

    /// Fills the buffer unless the end comes first.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, UnpackError> {
        let mut read = 0;
        while read < buffer.len() {
            let more = match self {
                Self::Plain(input) => input.read(&mut buffer[read..]),
                Self::Gzip(input) => input.read(&mut buffer[read..]),
                Self::Zstd(input) => input.read(&mut buffer[read..]),
            };
            match more {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) if self.input().failed => return Err(UnpackError::Input { source }),
                Err(source) => return Err(UnpackError::Damaged { source }),
            }
        }
        Ok(read)
    }

    fn input(&self) -> &Counted<R> {
        let reader = match self {
            Self::Plain(input) => input,
            Self::Gzip(input) => input.get_ref(),
            Self::Zstd(input) => input.get_ref(),
        };
        reader.get_ref().get_ref().1
    }

    /// How many bytes were read of the input.
    fn packed(&self) -> u64 {
        self.input().bytes
    }
}

/// Counts what is read, and remembers whether the input failed: a decompressor's own errors look
/// the same.
struct Counted<R> {
    input: R,
    bytes: u64,
    failed: bool,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer);
        match &read {
            Ok(bytes) => self.bytes += *bytes as u64,
            Err(error) => self.failed |= error.kind() != io::ErrorKind::Interrupted,
        }
        read
    }
}
