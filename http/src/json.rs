//! JSON in bodies and in responses.

use http::Response;
use http::header::HeaderValue;
use serde::Serialize;
use serde::de::DeserializeOwned;
use socketserver::HandlerError;

use crate::form::{BYTES_MAX, expect_type, read_limited};
use crate::response::typed;
use crate::{Content, HttpError, IntoResponse, Request};

/// A response with a value as JSON: 200, `application/json`. A value that cannot be serialized is answered 500.
///
/// # Examples
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use socketserver_http::{HttpError, Json, Request, RequestExt, Router};
///
/// #[derive(Deserialize, Serialize)]
/// struct Point {
///     x: f64,
///     y: f64,
/// }
///
/// fn mirror(request: &mut Request<'_>) -> Result<Json<Point>, HttpError> {
///     let point: Point = request.json()?;
///     Ok(Json(Point { x: -point.x, ..point }))
/// }
///
/// let router = Router::new().post("/mirror", mirror);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "it is its value")]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Result<Response<Content>, HandlerError> {
        let kind = HeaderValue::from_static("application/json");
        Ok(typed(kind, serde_json::to_vec(&self.0)?))
    }
}

/// Reads the body of a request.
pub(crate) fn of_body<T: DeserializeOwned>(request: &mut Request<'_>) -> Result<T, HttpError> {
    expect_type(request, "application/json", is_json)?;
    let text = read_limited(request.body_mut(), BYTES_MAX)?;
    serde_json::from_slice(&text).map_err(|err: serde_json::Error| {
        // The reason can have the names of the program's types and fields.
        let at = format!("line {}, column {}", err.line(), err.column());
        HttpError::bad_request(format!("the content is not as expected at {at}")).caused_by(err)
    })
}

/// RFC 6839, section 3.1: a type that ends with `+json` is JSON too.
fn is_json(kind: &str) -> bool {
    let subtype = kind.strip_prefix("application/");
    subtype.is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}
