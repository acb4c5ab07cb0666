//! [`Failure`]: an error as Kubernetes' `Status` object.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::kubernetes::types::{Status, StatusDetails};

/// Why a request was not answered as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<StatusDetails>,
}

impl Failure {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    /// The request is wrong.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// What is in the body is understood, and can't be.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    /// There is no such path.
    pub(super) fn no_such_path() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// There is no such pod.
    pub(super) fn no_such_pod(name: &str) -> Self {
        let message = format!("pods {name:?} not found");
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(name)
    }

    /// There is no such image.
    pub(super) fn no_such_image(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    /// Somebody else, who had to be asked for it, did not have it.
    pub(super) fn bad_gateway(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, reason, message)
    }

    /// There is something that stands against it.
    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", message)
    }

    /// The method is not for this path.
    pub(super) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// The client may not ask at all.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// What the client knows is too old to go on from.
    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// The body is too large.
    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// It went wrong here.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// Not now.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// The same, about a pod.
    pub(super) fn about(mut self, pod: &str) -> Self {
        let details = StatusDetails { name: pod.to_owned(), kind: "pods".to_owned(), uid: None };
        self.details = Some(details);
        self
    }

    /// The same, about an image.
    pub(super) fn about_image(mut self, image: &str) -> Self {
        let details =
            StatusDetails { name: image.to_owned(), kind: "images".to_owned(), uid: None };
        self.details = Some(details);
        self
    }

    /// As the object that goes over the wire.
    pub(super) fn status(&self) -> Status {
        let Self { code, reason, message, details } = self;
        Status {
            kind: "Status".to_owned(),
            api_version: "v1".to_owned(),
            status: "Failure".to_owned(),
            message: message.clone(),
            reason: Some((*reason).to_owned()),
            details: details.clone(),
            code: code.as_u16(),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.code, Json(self.status())).into_response()
    }
}
