//! Probes and hooks.

use super::*;

pub(super) static PROBE: Object = object(
    "spec.containers[].livenessProbe, .readinessProbe, .startupProbe",
    &[
        part("exec", Shape::Object(&EXEC)),
        part("httpGet", Shape::Object(&HTTP_GET)),
        part("tcpSocket", Shape::Object(&TCP_SOCKET)),
        part("grpc", Shape::Object(&GRPC)),
        part("initialDelaySeconds", INT32),
        part("periodSeconds", INT32),
        part("timeoutSeconds", INT32),
        part("successThreshold", INT32),
        part("failureThreshold", INT32),
        part("terminationGracePeriodSeconds", INT64),
    ],
);

static EXEC: Object = object("….exec", &[part("command", TEXTS)]);

pub(super) static HTTP_GET: Object = object(
    "….httpGet",
    &[
        part("path", TEXT),
        part("port", Shape::Port),
        part("host", TEXT),
        part("scheme", Shape::Words(&["HTTP", "HTTPS"])),
        part("httpHeaders", Shape::List(&Shape::Object(&HEADER))),
    ],
);

static HEADER: Object =
    object("….httpGet.httpHeaders[]", &[part("name", TEXT), part("value", TEXT)]);

static TCP_SOCKET: Object = object("….tcpSocket", &[part("port", Shape::Port), part("host", TEXT)]);

static GRPC: Object = object("….grpc", &[part("port", INT32), part("service", TEXT)]);

pub(super) static LIFECYCLE: Object = object(
    "spec.containers[].lifecycle",
    &[
        part("postStart", Shape::Object(&HOOK)),
        part("preStop", Shape::Object(&HOOK)),
        part("stopSignal", TEXT),
    ],
);

static HOOK: Object = object(
    "spec.containers[].lifecycle.postStart, .preStop",
    &[
        part("exec", Shape::Object(&EXEC)),
        part("httpGet", Shape::Object(&HTTP_GET)),
        part("sleep", Shape::Object(&SLEEP)),
        part("tcpSocket", Shape::Object(&TCP_SOCKET)),
    ],
);

static SLEEP: Object =
    object("spec.containers[].lifecycle.preStop.sleep", &[part("seconds", INT64)]);
