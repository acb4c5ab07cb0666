//! `securityContext` of pods and containers.

use super::*;

const FILTER_ON: &str = "leave it out: the default filter is always on";

pub(in super::super) static POD_SECURITY: Object = object(
    "spec.securityContext",
    &[
        works("runAsUser", ID),
        works("runAsGroup", ID),
        later("appArmorProfile", Shape::Object(&PROFILE)),
        later("fsGroup", ID),
        later("fsGroupChangePolicy", Shape::Words(&["Always", "OnRootMismatch"])),
        only("runAsNonRoot", BOOLEAN, &["false"], "set `runAsUser`"),
        later("seLinuxChangePolicy", TEXT),
        later("seLinuxOptions", Shape::Object(&SELINUX)),
        only("seccompProfile", Shape::Object(&PROFILE), &["type: RuntimeDefault"], FILTER_ON),
        later("supplementalGroups", Shape::List(&ID)),
        later("supplementalGroupsPolicy", Shape::Words(&["Merge", "Strict"])),
        later("sysctls", Shape::List(&Shape::Object(&SYSCTL))),
        never("windowsOptions", Shape::Object(&WINDOWS), ONLY_WINDOWS),
    ],
);

pub(in super::super) static CONTAINER_SECURITY: Object = object(
    "spec.containers[].securityContext",
    &[
        works("runAsUser", ID),
        works("runAsGroup", ID),
        works("readOnlyRootFilesystem", BOOLEAN),
        only(
            "allowPrivilegeEscalation",
            BOOLEAN,
            &["false"],
            "no container can gain privileges; leave it out",
        ),
        later("appArmorProfile", Shape::Object(&PROFILE)),
        later("capabilities", Shape::Object(&CAPABILITIES)),
        only("privileged", BOOLEAN, &["false"], ""),
        only("procMount", Shape::Words(&["Default", "Unmasked"]), &["Default"], ""),
        only("runAsNonRoot", BOOLEAN, &["false"], "set `runAsUser`"),
        later("seLinuxOptions", Shape::Object(&SELINUX)),
        only("seccompProfile", Shape::Object(&PROFILE), &["type: RuntimeDefault"], FILTER_ON),
        never("windowsOptions", Shape::Object(&WINDOWS), ONLY_WINDOWS),
    ],
);

static PROFILE: Object = object(
    "….securityContext.seccompProfile, .appArmorProfile",
    &[
        part("type", Shape::Words(&["RuntimeDefault", "Localhost", "Unconfined"])),
        part("localhostProfile", TEXT),
    ],
);

static SELINUX: Object = object(
    "….securityContext.seLinuxOptions",
    &[part("user", TEXT), part("role", TEXT), part("type", TEXT), part("level", TEXT)],
);

static SYSCTL: Object =
    object("spec.securityContext.sysctls[]", &[part("name", TEXT), part("value", TEXT)]);

static CAPABILITIES: Object = object(
    "spec.containers[].securityContext.capabilities",
    &[part("add", TEXTS), part("drop", TEXTS)],
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
