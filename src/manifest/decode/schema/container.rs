//! A container and what stands in it.

use super::probe::{LIFECYCLE, PROBE};
use super::security::CONTAINER_SECURITY;
use super::*;

/// The number of a port.
pub(super) const PORT_NUMBER: Shape = Shape::Integer(1, u16::MAX as i64);

pub(in super::super) static CONTAINER: Object = object(
    "spec.containers[]",
    &[
        works("name", TEXT),
        works("image", TEXT),
        works("imagePullPolicy", Shape::Words(&["Always", "IfNotPresent", "Never"])),
        works("command", TEXTS),
        works("args", TEXTS),
        works("env", Shape::List(&Shape::Object(&ENV_VAR))),
        works("workingDir", TEXT),
        works("resources", Shape::Object(&RESOURCES)),
        works("securityContext", Shape::Object(&CONTAINER_SECURITY)),
        works("volumeMounts", Shape::List(&Shape::Object(&VOLUME_MOUNT))),
        works("ports", Shape::List(&Shape::Object(&PORT))),
        works("lifecycle", Shape::Object(&LIFECYCLE)),
        works("restartPolicy", Shape::Words(&["Always", "OnFailure", "Never"])),
        works("restartPolicyRules", Shape::List(&Shape::Object(&RESTART_RULE))),
        works("envFrom", Shape::List(&Shape::Object(&ENV_FROM))),
        works("livenessProbe", Shape::Object(&PROBE)),
        works("readinessProbe", Shape::Object(&PROBE)),
        works("resizePolicy", Shape::List(&Shape::Object(&RESIZE_POLICY))),
        works("startupProbe", Shape::Object(&PROBE)),
        only("stdin", BOOLEAN, &["false"], ""),
        only("stdinOnce", BOOLEAN, &["false"], ""),
        works("terminationMessagePath", TEXT),
        works("terminationMessagePolicy", Shape::Words(&["File", "FallbackToLogsOnError"])),
        only("tty", BOOLEAN, &["false"], ""),
        never(
            "volumeDevices",
            Shape::List(&Shape::Object(&VOLUME_DEVICE)),
            "there are no block volumes; use `hostPath` of type BlockDevice",
        ),
    ],
);

pub(super) static EPHEMERAL_CONTAINER: Object = Object {
    place: "spec.ephemeralContainers[]",
    unknown: Unknown::Field,
    fields: &[part("targetContainerName", TEXT)],
    like: Some(&CONTAINER),
};

pub(in super::super) static ENV_VAR: Object = object(
    "spec.containers[].env[]",
    &[works("name", TEXT), works("value", TEXT), works("valueFrom", Shape::Object(&VALUE_FROM))],
);

pub(in super::super) static VALUE_FROM: Object = object(
    "spec.containers[].env[].valueFrom",
    &[
        works("fieldRef", Shape::Object(&FIELD_REF)),
        works("resourceFieldRef", Shape::Object(&RESOURCE_FIELD_REF)),
        works("configMapKeyRef", Shape::Object(&KEY_REF)),
        works("secretKeyRef", Shape::Object(&KEY_REF)),
        later("fileKeyRef", Shape::Object(&FILE_KEY_REF)),
    ],
);

pub(in super::super) static FIELD_REF: Object =
    object("….fieldRef", &[works("apiVersion", TEXT), works("fieldPath", TEXT)]);

pub(in super::super) static RESOURCE_FIELD_REF: Object = object(
    "….resourceFieldRef",
    &[works("containerName", TEXT), works("resource", TEXT), works("divisor", QUANTITY)],
);

pub(in super::super) static KEY_REF: Object = object(
    "spec.containers[].env[].valueFrom.configMapKeyRef, .secretKeyRef",
    &[works("name", TEXT), works("key", TEXT), works("optional", BOOLEAN)],
);

static FILE_KEY_REF: Object = object(
    "spec.containers[].env[].valueFrom.fileKeyRef",
    &[part("volumeName", TEXT), part("path", TEXT), part("key", TEXT), part("optional", BOOLEAN)],
);

pub(in super::super) static ENV_FROM: Object = object(
    "spec.containers[].envFrom[]",
    &[
        works("prefix", TEXT),
        works("configMapRef", Shape::Object(&OBJECT_REF)),
        works("secretRef", Shape::Object(&OBJECT_REF)),
    ],
);

pub(in super::super) static OBJECT_REF: Object = object(
    "spec.containers[].envFrom[].configMapRef, .secretRef",
    &[works("name", TEXT), works("optional", BOOLEAN)],
);

pub(in super::super) static RESOURCES: Object = object(
    "spec.containers[].resources",
    &[
        works("limits", Shape::Object(&RESOURCE_NAMES)),
        works("requests", Shape::Object(&RESOURCE_NAMES)),
        never("claims", Shape::List(&Shape::Object(&CLAIM)), NO_CLAIMS),
    ],
);

/// The keys of `limits` and `requests`.
pub(in super::super) static RESOURCE_NAMES: Object = Object {
    place: "spec.containers[].resources.limits, .requests",
    unknown: Unknown::Refused {
        why: "not supported: only `cpu`, `memory` and `ephemeral-storage` can be limited",
    },
    fields: &[
        works("cpu", QUANTITY),
        works("memory", QUANTITY),
        works("ephemeral-storage", QUANTITY),
    ],
    like: None,
};

static CLAIM: Object =
    object("spec.containers[].resources.claims[]", &[part("name", TEXT), part("request", TEXT)]);

pub(in super::super) static POD_RESOURCES: Object = object(
    "spec.resources",
    &[
        works("limits", Shape::Object(&POD_RESOURCE_NAMES)),
        works("requests", Shape::Object(&POD_RESOURCE_NAMES)),
        never("claims", Shape::List(&Shape::Object(&CLAIM)), NO_CLAIMS),
    ],
);

/// The keys of `limits` and `requests` of a pod.
pub(in super::super) static POD_RESOURCE_NAMES: Object = Object {
    place: "spec.resources.limits, .requests",
    unknown: Unknown::Refused {
        why: "not supported: only `cpu` and `memory` can be limited, and the number of processes by \
              the annotation `roost/pids-limit`",
    },
    fields: &[works("cpu", QUANTITY), works("memory", QUANTITY)],
    like: None,
};

pub(in super::super) static RESIZE_POLICY: Object = object(
    "spec.containers[].resizePolicy[]",
    &[
        works("resourceName", Shape::Words(&["cpu", "memory"])),
        works("restartPolicy", Shape::Words(&["NotRequired", "RestartContainer"])),
    ],
);

pub(in super::super) static RESTART_RULE: Object = object(
    "spec.containers[].restartPolicyRules[]",
    &[
        works("action", Shape::Words(&["Restart", "RestartAllContainers"])),
        works("exitCodes", Shape::Object(&EXIT_CODES)),
    ],
);

pub(in super::super) static EXIT_CODES: Object = object(
    "spec.containers[].restartPolicyRules[].exitCodes",
    &[
        works("operator", Shape::Words(&["In", "NotIn"])),
        works("values", Shape::List(&Shape::Integer(0, u8::MAX as i64))),
    ],
);

pub(in super::super) static VOLUME_MOUNT: Object = object(
    "spec.containers[].volumeMounts[]",
    &[
        works("name", TEXT),
        works("mountPath", TEXT),
        works("readOnly", BOOLEAN),
        works("mountPropagation", Shape::Words(&["None", "HostToContainer", "Bidirectional"])),
        works("recursiveReadOnly", Shape::Words(&["Disabled", "IfPossible", "Enabled"])),
        works("subPath", TEXT),
        works("subPathExpr", TEXT),
    ],
);

pub(in super::super) static PORT: Object = object(
    "spec.containers[].ports[]",
    &[
        works("name", TEXT),
        works("containerPort", PORT_NUMBER),
        works("hostPort", PORT_NUMBER),
        works("hostIP", TEXT),
        works("protocol", Shape::Words(&["TCP", "UDP", "SCTP"])),
    ],
);

static VOLUME_DEVICE: Object =
    object("spec.containers[].volumeDevices[]", &[part("name", TEXT), part("devicePath", TEXT)]);
