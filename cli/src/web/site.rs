//! What answers a request: a CGI program, or the files.

use std::sync::Arc;

use socketserver::HandlerError;
use socketserver_http::http::header::ACCESS_CONTROL_REQUEST_METHOD;
use socketserver_http::http::{Method, Response};
use socketserver_http::{Content, Files, Handler, Request};

use super::cgi::{Answer, Programs};

/// How often a program may redirect to another path of the server within one request.
const REDIRECTS_MAX: usize = 10;

#[derive(Debug)]
pub(super) struct Site {
    files: Files,
    programs: Option<Arc<Programs>>,
}

impl Site {
    pub(super) const fn new(files: Files, programs: Option<Arc<Programs>>) -> Self {
        Self { files, programs }
    }

    fn answer(
        &self,
        programs: &Programs,
        request: &mut Request<'_>,
    ) -> Result<Response<Content>, HandlerError> {
        for _ in 0..REDIRECTS_MAX {
            match programs.answer(request)? {
                Answer::Response(response) => return Ok(response),
                Answer::NotOurs => return self.files.call(&mut (), request),
                // RFC 3875, section 6.2.2: as if the client had asked for it.
                Answer::Local(target) => {
                    *request.uri_mut() = target;
                    if *request.method() != Method::HEAD {
                        *request.method_mut() = Method::GET;
                    }
                }
            }
        }
        Err(format!("programs have redirected {REDIRECTS_MAX} times within the server").into())
    }
}

impl Handler for Site {
    type Session = ();

    fn call(
        &self,
        (): &mut (),
        request: &mut Request<'_>,
    ) -> Result<Response<Content>, HandlerError> {
        let Some(programs) = &self.programs else {
            return self.files.call(&mut (), request);
        };
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let answer = self.answer(programs, request);
        // The access log has what the client has asked for.
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        answer
    }
}

/// Answers what a browser asks before a request of another origin, and passes on the rest. The browser sends no
/// password with that question (Fetch standard, CORS preflight), whose answer says nothing of a file.
#[derive(Debug)]
pub(super) struct Preflights<H> {
    pub(super) files: Files,
    pub(super) handler: H,
}

impl<H: Handler> Handler for Preflights<H> {
    type Session = H::Session;

    fn call(
        &self,
        session: &mut H::Session,
        request: &mut Request<'_>,
    ) -> Result<Response<Content>, HandlerError> {
        let asks = request.method() == Method::OPTIONS
            && request
                .headers()
                .contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if asks {
            return self.files.call(&mut (), request);
        }
        self.handler.call(session, request)
    }
}
