//! A client of HTTP/2: one connection, on a runtime of its own.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use http::{Method, Request};

use super::Answer;
use crate::support::DEADLINE;

pub(crate) struct Client {
    addr: SocketAddr,
    requests: SendRequest<Bytes>,
}

/// What has come of a request.
pub(crate) enum Outcome {
    Answer(Answer),
    /// The server has said that it has not looked at it.
    NotProcessed,
}

/// Connects, and runs `talk` within the deadline.
pub(crate) fn with(addr: SocketAddr, talk: impl AsyncFnOnce(&mut Client)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let all = async {
        let socket = tokio::net::TcpStream::connect(addr).await.expect("connect");
        socket.set_nodelay(true).expect("no delay");
        let (requests, connection) = h2::client::handshake(socket).await.expect("a handshake");
        let moving = tokio::spawn(connection);
        let mut client = Client { addr, requests };
        talk(&mut client).await;
        drop(client);
        // It ends with the server's last frame, or because nobody needs it any more.
        let _ = moving.await;
    };
    runtime
        .block_on(async { tokio::time::timeout(DEADLINE, all).await })
        .expect("an end before the deadline");
}

impl Client {
    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        answer(self.send(path)).await
    }

    pub(crate) async fn get_with(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let mut request = self.request(Method::GET, path);
        for (name, value) in fields {
            let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            request
                .headers_mut()
                .append(name, value.parse().expect("a value"));
        }
        let (response, _) = self.requests.send_request(request, true).expect("send");
        answer(response).await
    }

    pub(crate) fn send(&mut self, path: &str) -> ResponseFuture {
        let request = self.request(Method::GET, path);
        let (response, _) = self.requests.send_request(request, true).expect("send");
        response
    }

    pub(crate) async fn post(&mut self, path: &str, body: &[u8]) -> Answer {
        let request = self.request(Method::POST, path);
        let (response, mut stream) = self.requests.send_request(request, false).expect("send");
        // The client holds back the bytes beyond the window. The server may refuse them.
        let _ = stream.send_data(Bytes::copy_from_slice(body), true);
        answer(response).await
    }

    pub(crate) async fn outcome(&mut self, path: &str) -> Outcome {
        let request = self.request(Method::GET, path);
        let ready = std::future::poll_fn(|cx| self.requests.poll_ready(cx)).await;
        let sent = ready.and_then(|()| self.requests.send_request(request, true));
        let Ok((response, _)) = sent else {
            return Outcome::NotProcessed;
        };
        match response.await {
            Ok(response) => Outcome::Answer(whole(response).await),
            Err(err) if err.is_go_away() || err.reason() == Some(Reason::REFUSED_STREAM) => {
                Outcome::NotProcessed
            }
            Err(err) => panic!("the request to {path} was lost: {err:?}"),
        }
    }

    fn request(&self, method: Method, path: &str) -> Request<()> {
        let uri = format!("http://{}{path}", self.addr);
        Request::builder()
            .method(method)
            .uri(uri)
            .body(())
            .expect("a request")
    }
}

pub(crate) async fn answer(response: ResponseFuture) -> Answer {
    whole(response.await.expect("a response")).await
}

async fn whole(response: http::Response<h2::RecvStream>) -> Answer {
    let status = response.status().as_u16();
    let mut stream = response.into_body();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.expect("data");
        body.extend_from_slice(&data);
        let _ = stream.flow_control().release_capacity(data.len());
    }
    Answer {
        status,
        body,
        closes: false,
    }
}
