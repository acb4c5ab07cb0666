//! [`channel`]: a response body that is written while it is sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use hyper::body::{Body as HttpBody, Bytes, Frame};
use tokio::sync::mpsc;

/// Pieces of a body waiting for a client that reads slowly.
const PIECES_MAX: usize = 8;

/// The writing end. When the client is gone, sending fails and `closed()` returns.
pub(super) type Sender = mpsc::Sender<io::Result<Bytes>>;

/// A body, and the end that it is written by. It ends when the sender is dropped.
pub(super) fn channel() -> (Sender, Body) {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    (sender, Body::new(Pieces { pieces }))
}

struct Pieces {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.pieces.poll_recv(context).map(|piece| piece.map(|result| result.map(Frame::data)))
    }
}
