//! `securityContext` of pods and containers.

use super::*;

pub(in super::super) static POD_SECURITY: Object = object(
    "spec.securityContext",
    &[
        works("runAsUser", ID),
        works("runAsGroup", ID),
        only("appArmorProfile", Shape::Object(&APP_ARMOR), &["type: Unconfined"], ""),
        works("fsGroup", ID),
        works("fsGroupChangePolicy", Shape::Words(&["Always", "OnRootMismatch"])),
        works("runAsNonRoot", BOOLEAN),
        later("seLinuxChangePolicy", TEXT),
        later("seLinuxOptions", Shape::Object(&SELINUX)),
        works("seccompProfile", Shape::Object(&SECCOMP)),
        works("supplementalGroups", Shape::List(&ID)),
        works("supplementalGroupsPolicy", Shape::Words(&["Merge", "Strict"])),
        works("sysctls", Shape::List(&Shape::Object(&SYSCTL))),
        never("windowsOptions", Shape::Object(&WINDOWS), ONLY_WINDOWS),
    ],
);

pub(in super::super) static CONTAINER_SECURITY: Object = object(
    "spec.containers[].securityContext",
    &[
        works("runAsUser", ID),
        works("runAsGroup", ID),
        works("readOnlyRootFilesystem", BOOLEAN),
        works("allowPrivilegeEscalation", BOOLEAN),
        only("appArmorProfile", Shape::Object(&APP_ARMOR), &["type: Unconfined"], ""),
        works("capabilities", Shape::Object(&CAPABILITIES)),
        works("privileged", BOOLEAN),
        only("procMount", Shape::Words(&["Default", "Unmasked"]), &["Default"], ""),
        works("runAsNonRoot", BOOLEAN),
        later("seLinuxOptions", Shape::Object(&SELINUX)),
        works("seccompProfile", Shape::Object(&SECCOMP)),
        never("windowsOptions", Shape::Object(&WINDOWS), ONLY_WINDOWS),
    ],
);

pub(in super::super) static SECCOMP: Object = object(
    "….securityContext.seccompProfile",
    &[
        works("type", Shape::Words(&["RuntimeDefault", "Localhost", "Unconfined"])),
        works("localhostProfile", TEXT),
    ],
);

static APP_ARMOR: Object = object(
    "….securityContext.appArmorProfile",
    &[
        part("type", Shape::Words(&["RuntimeDefault", "Localhost", "Unconfined"])),
        part("localhostProfile", TEXT),
    ],
);

static SELINUX: Object = object(
    "….securityContext.seLinuxOptions",
    &[part("user", TEXT), part("role", TEXT), part("type", TEXT), part("level", TEXT)],
);

pub(in super::super) static SYSCTL: Object =
    object("spec.securityContext.sysctls[]", &[works("name", TEXT), works("value", TEXT)]);

pub(in super::super) static CAPABILITIES: Object = object(
    "spec.containers[].securityContext.capabilities",
    &[works("add", TEXTS), works("drop", TEXTS)],
);

static WINDOWS: Object = object(
    "….securityContext.windowsOptions",
    &[
        part("gmsaCredentialSpecName", TEXT),
        part("gmsaCredentialSpec", TEXT),
        part("runAsUserName", TEXT),
        part("hostProcess", BOOLEAN),
    ],
);
