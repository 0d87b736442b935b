//! The body of an answer: all of it at once, or message by message.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// The body of an answer.
pub struct AdminBody {
    content: Content,
    /// Held until it is sent.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Octets that are given to a connection at a time: the permit is held until nearly all were taken.
const PART: usize = 64 * 1024;

enum Content {
    /// What is left of it.
    Whole(Bytes),
    Messages(mpsc::Receiver<Bytes>),
}

impl AdminBody {
    /// One that is there.
    pub fn new(octets: impl Into<Bytes>, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { content: Content::Whole(octets.into()), _permit: permit }
    }

    /// One that ends when nobody sends any more.
    pub fn of_messages(messages: mpsc::Receiver<Bytes>) -> Self {
        Self { content: Content::Messages(messages), _permit: None }
    }
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let octets = match &mut self.content {
            Content::Whole(left) => {
                let part = left.split_to(left.len().min(PART));
                Poll::Ready((!part.is_empty()).then_some(part))
            }
            Content::Messages(messages) => messages.poll_recv(context),
        };
        octets.map(|octets| octets.map(|octets| Ok(Frame::data(octets))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(left) if left.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(left) => SizeHint::with_exact(left.len() as u64),
            Content::Messages(_) => SizeHint::default(),
        }
    }
}
