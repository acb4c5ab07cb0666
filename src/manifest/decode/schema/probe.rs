//! Probes and hooks.

use super::super::pod::TERMINATION_GRACE_MAX_SECONDS;
use super::container::PORT_NUMBER;
use super::*;

/// Seconds and numbers of times.
const COUNT: Shape = Shape::Integer(0, i32::MAX as i64);

pub(in super::super) static PROBE: Object = object(
    "spec.containers[].livenessProbe, .readinessProbe, .startupProbe",
    &[
        works("exec", Shape::Object(&EXEC)),
        works("httpGet", Shape::Object(&HTTP_GET)),
        works("tcpSocket", Shape::Object(&TCP_SOCKET)),
        works("grpc", Shape::Object(&GRPC)),
        works("initialDelaySeconds", COUNT),
        works("periodSeconds", COUNT),
        works("timeoutSeconds", COUNT),
        works("successThreshold", COUNT),
        works("failureThreshold", COUNT),
        works("terminationGracePeriodSeconds", Shape::Integer(1, TERMINATION_GRACE_MAX_SECONDS)),
    ],
);

pub(in super::super) static EXEC: Object = object("….exec", &[works("command", TEXTS)]);

pub(in super::super) static HTTP_GET: Object = object(
    "….httpGet",
    &[
        works("path", TEXT),
        works("port", Shape::Port),
        works("host", TEXT),
        works("scheme", Shape::Words(&["HTTP", "HTTPS"])),
        works("httpHeaders", Shape::List(&Shape::Object(&HEADER))),
    ],
);

pub(in super::super) static HEADER: Object =
    object("….httpGet.httpHeaders[]", &[works("name", TEXT), works("value", TEXT)]);

pub(in super::super) static TCP_SOCKET: Object =
    object("….tcpSocket", &[works("port", Shape::Port), works("host", TEXT)]);

pub(in super::super) static GRPC: Object =
    object("….grpc", &[works("port", PORT_NUMBER), works("service", TEXT)]);

/// What stands in an annotation `roost/check.…`.
pub(in super::super) static CHECK: Object = object(
    "metadata.annotations[roost/check.…]",
    &[
        works("exec", Shape::Object(&EXEC)),
        works("httpGet", Shape::Object(&HTTP_GET)),
        works("tcpSocket", Shape::Object(&TCP_SOCKET)),
        works("delay", TEXT),
        works("interval", TEXT),
        works("timeout", TEXT),
    ],
);

pub(in super::super) static LIFECYCLE: Object = object(
    "spec.containers[].lifecycle",
    &[
        works("postStart", Shape::Object(&HOOK)),
        works("preStop", Shape::Object(&HOOK)),
        works("stopSignal", TEXT),
    ],
);

pub(in super::super) static HOOK: Object = object(
    "spec.containers[].lifecycle.postStart, .preStop",
    &[
        works("exec", Shape::Object(&EXEC)),
        works("httpGet", Shape::Object(&HTTP_GET)),
        works("sleep", Shape::Object(&SLEEP)),
        works("tcpSocket", Shape::Object(&TCP_SOCKET)),
    ],
);

pub(in super::super) static SLEEP: Object = object(
    "spec.containers[].lifecycle.preStop.sleep",
    &[works("seconds", Shape::Integer(0, TERMINATION_GRACE_MAX_SECONDS))],
);
