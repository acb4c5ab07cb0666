//! [`Request`]: a question that is asked over the network, while the executor's loop goes on.
//!
//! ```text
//!   socket ready ─► poller ─► Request::poll ─► the future goes on ─► an answer, or not yet
//! ```
//!
//! A future is all that there is of it: no thread, no process, and nothing is left of it when it is
//! dropped. Not here: its deadline (`asking`).

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::socket::connect;
use super::{grpc, http};
use crate::executor::poller::Poller;
use crate::executor::question::{Answer, Observed, Seen};
use crate::manifest::pod::{Handler, Host, HttpGet};

/// The address of the pod: where its servers are asked that are not said to be elsewhere.
///
/// That of a pod without an address of its own is the loopback address of its network namespace, or
/// of the host for those in the host's network. The kubelet asks the node's address then, so there a
/// server that listens on the loopback interface only is reached here and not there.
pub(super) const POD_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The address of a host.
pub(super) fn address_of(host: Option<Host>) -> IpAddr {
    match host {
        None => POD_ADDRESS,
        Some(Host::Localhost) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(Host::Address(address)) => address,
    }
}

/// A question on its way.
pub(super) struct Request {
    future: Pin<Box<dyn Future<Output = Answer>>>,
    woken: Arc<Woken>,
    waker: Waker,
}

/// Whether one part of a future has something for another.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Request {
    /// A question by one of the handlers that need no process; none for the others. Events of its
    /// sockets come with the token of `id`. `pod` is the pod's own address, if it has one.
    pub(super) fn new(
        handler: &Handler,
        poller: &Rc<Poller>,
        id: u32,
        pod: Option<IpAddr>,
    ) -> Option<Self> {
        let poller = Rc::clone(poller);
        let own = |host: Option<Host>| host.or(pod.map(Host::Address));
        let future: Pin<Box<dyn Future<Output = Answer>>> = match handler {
            Handler::Exec { .. } | Handler::Sleep(_) => return None,
            Handler::Http(get) => {
                let get = HttpGet { host: own(get.host), ..get.clone() };
                Box::pin(http::ask(poller, id, get))
            }
            Handler::Tcp { host, port } => Box::pin(tcp(poller, id, address_of(own(*host)), *port)),
            Handler::Grpc { port, service } => {
                Box::pin(grpc::ask(poller, id, address_of(own(None)), *port, service.clone()))
            }
        };
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        Some(Self { future, woken, waker })
    }

    /// Goes on as far as it can; the answer, if there is one.
    pub(super) fn poll(&mut self) -> Option<Answer> {
        let mut context = Context::from_waker(&self.waker);
        loop {
            self.woken.0.store(false, Ordering::Relaxed);
            if let Poll::Ready(answer) = self.future.as_mut().poll(&mut context) {
                return Some(answer);
            }
            // What waits for a socket wakes nobody, so this ends: a socket has only so much to give.
            if !self.woken.0.load(Ordering::Relaxed) {
                return None;
            }
        }
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("woken", &self.woken.0).finish_non_exhaustive()
    }
}

async fn tcp(poller: Rc<Poller>, id: u32, address: IpAddr, port: u16) -> Answer {
    match connect(&poller, id, address, port).await {
        Ok(_) => {
            let seen = Seen::Connected(true);
            Answer::Success(Observed { seen, text: String::new() })
        }
        Err(error) => {
            let (seen, text) = (Seen::Connected(false), not_connected(address, port, &error));
            Answer::Failure(Observed { seen, text })
        }
    }
}

/// Why no connection was made.
pub(super) fn not_connected(address: IpAddr, port: u16, error: &std::io::Error) -> String {
    format!("connecting to {}: {error}", std::net::SocketAddr::new(address, port))
}

/// A failure of which nothing was seen.
pub(super) fn failure(text: String) -> Answer {
    Answer::Failure(Observed { seen: Seen::Nothing, text })
}

/// Does some work over a connection, which has to be driven meanwhile.
pub(super) async fn drive<C: Future, T>(connection: C, work: impl Future<Output = T>) -> T {
    let mut connection = pin!(connection);
    let mut work = pin!(work);
    let mut is_over = false;
    std::future::poll_fn(|context| {
        if let Poll::Ready(result) = work.as_mut().poll(context) {
            return Poll::Ready(result);
        }
        // When it has ended, the work hears of it.
        is_over = is_over || connection.as_mut().poll(context).is_ready();
        Poll::Pending
    })
    .await
}
