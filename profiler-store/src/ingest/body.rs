//! A message's body, while it comes. What is kept of it is counted before it is kept, and as it is in memory, unpacked:
//! against the quota of who sends it and against the room that messages have. Who is over either is told so before the rest
//! is read.

use std::{
    fmt::Display,
    io::{self, Write},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use axum::body::{Bytes, HttpBody};
use flate2::write::GzDecoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    http::{Receiver, Trouble},
    metrics::Metrics,
};

/// Who is slower than this holds memory that others could have.
const WITHIN: Duration = Duration::from_secs(60);
/// What is taken of the room at once, at least.
const STEP: usize = 4096;

/// A message, and the room that it has.
pub struct Held {
    pub bytes: Vec<u8>,
    pub room: Option<OwnedSemaphorePermit>,
}

/// How the bytes of a body become those of a message.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub gzip: bool,
    /// gRPC: five bytes before the message say whether it is compressed, and its length.
    pub framed: bool,
}

/// Takes a message off its connection. `announced`: the body's length, if it was told.
pub async fn read<B>(
    receiver: &Receiver,
    from: IpAddr,
    announced: Option<u64>,
    form: Form,
    body: B,
) -> Result<Held, Trouble>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Display,
{
    let message = Growing {
        receiver,
        from,
        held: Held {
            bytes: Vec::new(),
            room: None,
        },
        trouble: None,
    };
    message.can_be(announced.unwrap_or(0))?;
    let read = tokio::time::timeout(WITHIN, read_all(message, form, body));
    read.await
        .unwrap_or_else(|_| Err(Trouble::Later("the message did not come within a minute".to_owned())))
}

async fn read_all<B>(message: Growing<'_>, form: Form, mut body: B) -> Result<Held, Trouble>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Display,
{
    let mut header = Vec::new();
    let mut out = Unpacking::of(message, form.gzip && !form.framed);
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|error| Trouble::Bad(format!("the body ends before its end: {error}")))?;
        // Trailers say nothing here.
        let Ok(mut data) = frame.into_data() else { continue };
        if form.framed && header.len() < 5 {
            header.extend_from_slice(&data.split_to(data.len().min(5 - header.len())));
            if let [compressed, length @ ..] = &header[..]
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                if *compressed > u8::from(form.gzip) {
                    return Err(Trouble::Bad("only gzip is understood".to_owned()));
                }
                let message = out.begun()?;
                message.can_be(u32::from_be_bytes(length).into())?;
                out = Unpacking::of(message, *compressed == 1);
            }
        }
        out.take(&data)?;
    }
    if form.framed && header.len() < 5 {
        return Err(Trouble::Bad("the body has no message".to_owned()));
    }
    out.end()
}

/// A message that comes as it is, or compressed.
enum Unpacking<'a> {
    Plain(Growing<'a>),
    Gzip(Box<GzDecoder<Growing<'a>>>),
}

impl<'a> Unpacking<'a> {
    fn of(message: Growing<'a>, gzip: bool) -> Self {
        match gzip {
            true => Self::Gzip(Box::new(GzDecoder::new(message))),
            false => Self::Plain(message),
        }
    }

    /// What nothing has come of yet.
    fn begun(self) -> Result<Growing<'a>, Trouble> {
        match self {
            Self::Plain(message) => Ok(message),
            Self::Gzip(_) => Err(Trouble::Bad("the message has begun".to_owned())),
        }
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Trouble> {
        match self {
            Self::Plain(message) => message.take(data),
            Self::Gzip(gzip) => {
                let written = gzip.write_all(data);
                written.map_err(|_| why(gzip.get_mut()))
            }
        }
    }

    fn end(self) -> Result<Held, Trouble> {
        match self {
            Self::Plain(message) => Ok(message.held),
            Self::Gzip(mut gzip) => {
                if gzip.try_finish().is_err() {
                    return Err(why(gzip.get_mut()));
                }
                let empty = Held {
                    bytes: Vec::new(),
                    room: None,
                };
                Ok(std::mem::replace(&mut gzip.get_mut().held, empty))
            }
        }
    }
}

/// Why no more could be unpacked.
fn why(message: &mut Growing<'_>) -> Trouble {
    let not_gzip = || Trouble::Bad("the body is not gzip".to_owned());
    message.trouble.take().unwrap_or_else(not_gzip)
}

/// A message as far as it has come.
struct Growing<'a> {
    receiver: &'a Receiver,
    from: IpAddr,
    held: Held,
    /// What a decoder has no words for.
    trouble: Option<Trouble>,
}

impl Growing<'_> {
    /// Whether a message of so many bytes could be taken now: told before any of it is read.
    fn can_be(&self, bytes: u64) -> Result<(), Trouble> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes > self.receiver.most {
            return Err(self.too_large());
        }
        if !self.receiver.quota.has(self.from, bytes) {
            return Err(self.too_fast());
        }
        match self.receiver.batches.room.available_permits() < bytes / 1024 {
            true => Err(self.no_room()),
            false => Ok(()),
        }
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), Trouble> {
        let (length, capacity) = (self.held.bytes.len() + piece.len(), self.held.bytes.capacity());
        if length > self.receiver.most {
            return Err(self.too_large());
        }
        if !self.receiver.quota.allows(self.from, piece.len()) {
            return Err(self.too_fast());
        }
        if length > capacity {
            let wanted = length.max(2 * capacity).min(self.receiver.most).max(STEP);
            let more = hold(&self.receiver.batches.room, wanted - capacity).ok_or_else(|| self.no_room())?;
            match &mut self.held.room {
                Some(room) => room.merge(more),
                room => *room = Some(more),
            }
            self.held.bytes.reserve_exact(wanted - self.held.bytes.len());
        }
        self.held.bytes.extend_from_slice(piece);
        Ok(())
    }

    fn too_large(&self) -> Trouble {
        let most = self.receiver.most >> 10;
        Trouble::TooLarge(format!(
            "the message is larger than {most} KiB: send shorter windows, or raise --message and --memory"
        ))
    }

    fn too_fast(&self) -> Trouble {
        Metrics::add(&self.receiver.metrics.too_fast, 1);
        Trouble::TooFast
    }

    fn no_room(&self) -> Trouble {
        Metrics::add(&self.receiver.metrics.no_room, 1);
        Trouble::Later("no memory for more messages".to_owned())
    }
}

/// So many bytes of the room, which is counted in KiB.
fn hold(room: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let size = u32::try_from(bytes.div_ceil(1024)).ok()?;
    Arc::clone(room).try_acquire_many_owned(size).ok()
}

impl Write for Growing<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        match self.take(piece) {
            Ok(()) => Ok(piece.len()),
            Err(trouble) => {
                self.trouble.get_or_insert(trouble);
                Err(io::Error::other("refused"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::ingest::{batch::Batches, quota::Quota};

    const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const PLAIN: Form = Form {
        gzip: false,
        framed: false,
    };
    const GZIP: Form = Form {
        gzip: true,
        framed: false,
    };
    const FRAMED: Form = Form {
        gzip: true,
        framed: true,
    };

    fn receiver(most: usize, room_kib: usize, quota_kib: u32) -> Receiver {
        Receiver {
            batches: Batches::without_writer(room_kib),
            quota: Quota::new(quota_kib),
            metrics: Arc::default(),
            most,
        }
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    fn framed(compressed: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&[compressed][..], &length, bytes].concat()
    }

    #[tokio::test]
    async fn a_message_is_the_same_however_it_comes() {
        let receiver = receiver(1 << 20, 1024, 1024);
        let bytes: Vec<u8> = (0..100_000_u32).map(|at| at as u8).collect();
        for (form, body) in [
            (PLAIN, bytes.clone()),
            (GZIP, packed(&bytes)),
            (FRAMED, framed(0, &bytes)),
            (FRAMED, framed(1, &packed(&bytes))),
        ] {
            let held = read(&receiver, FROM, None, form, Body::from(body)).await;
            let held = held.ok().unwrap();
            assert!(held.bytes == bytes, "{form:?}");
            let taken = 1024 - receiver.batches.room.available_permits();
            assert!(taken * 1024 >= held.bytes.capacity(), "{form:?}: {taken} KiB");
        }
        assert_eq!(receiver.batches.room.available_permits(), 1024, "given back");
    }

    #[tokio::test]
    async fn what_is_announced_is_refused_before_it_is_read() {
        let announced = async |receiver: &Receiver, bytes| {
            let mut body = Body::from("some");
            let became = read(receiver, FROM, Some(bytes), PLAIN, &mut body).await;
            assert!(!body.is_end_stream(), "it was read");
            became.err().unwrap()
        };
        let large = receiver(1000, 1024, 1024);
        assert!(matches!(announced(&large, 1001).await, Trouble::TooLarge(_)));
        let full = receiver(1 << 20, 1, 1024);
        assert!(matches!(announced(&full, 3000).await, Trouble::Later(_)));
        let fast = receiver(1 << 20, 1024, 1);
        assert!(matches!(announced(&fast, 61 << 10).await, Trouble::TooFast));
    }

    #[tokio::test]
    async fn what_is_not_announced_is_refused_while_it_is_read() {
        // Some KB that become ten MiB.
        let bomb = packed(&vec![0; 10 << 20]);
        assert!(bomb.len() < 20_000);
        let ends = async |receiver: &Receiver| {
            let both = [(GZIP, bomb.clone()), (FRAMED, framed(1, &bomb))];
            let mut ends = Vec::new();
            for (form, body) in both {
                ends.push(read(receiver, FROM, None, form, Body::from(body)).await.err().unwrap());
            }
            ends
        };
        let large = receiver(1 << 20, 64 << 10, 1 << 20);
        assert!(ends(&large).await.iter().all(|end| matches!(end, Trouble::TooLarge(_))));
        let full = receiver(64 << 20, 1 << 10, 1 << 20);
        assert!(ends(&full).await.iter().all(|end| matches!(end, Trouble::Later(_))));
        assert_eq!(full.batches.room.available_permits(), 1 << 10);
        let fast = receiver(64 << 20, 64 << 10, 1);
        assert!(ends(&fast).await.iter().all(|end| matches!(end, Trouble::TooFast)));
        assert!(!fast.quota.has(FROM, 60 << 10), "what was unpacked was counted");
    }

    #[tokio::test]
    async fn what_is_no_message_is_called_so() {
        let receiver = receiver(1 << 20, 1024, 1024);
        let good = packed(b"message");
        for (form, body) in [
            (GZIP, b"no".to_vec()),
            (GZIP, good[..good.len() - 3].to_vec()),
            (FRAMED, vec![0, 0]),
            (FRAMED, framed(2, b"x")),
        ] {
            let end = read(&receiver, FROM, None, form, Body::from(body)).await;
            assert!(matches!(end.err().unwrap(), Trouble::Bad(_)), "{form:?}");
        }
    }
}
