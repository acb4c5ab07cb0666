//! A Pod, its `metadata` and its `spec`.

use super::container::{CONTAINER, EPHEMERAL_CONTAINER, POD_RESOURCES};
use super::scheduling::{
    AFFINITY, READINESS_GATE, RESOURCE_CLAIM, SCHEDULING_GATE, TOLERATION, TOPOLOGY_SPREAD,
    WORKLOAD_REF,
};
use super::security::POD_SECURITY;
use super::volume::VOLUME;
use super::*;

const DEADLINE: Shape = Shape::Integer(1, super::super::pod::ACTIVE_DEADLINE_MAX_SECONDS);
const GRACE: Shape = Shape::Integer(0, super::super::pod::TERMINATION_GRACE_MAX_SECONDS);

pub(in super::super) static POD: Object = object(
    "",
    &[
        works("apiVersion", Shape::Words(&["v1"])),
        works("kind", Shape::Words(&["Pod"])),
        works("metadata", Shape::Object(&METADATA)),
        works("spec", Shape::Object(&POD_SPEC)),
        ignored("status", Shape::Any, "Roost reports the status itself"),
    ],
);

pub(in super::super) static METADATA: Object = object(
    "metadata",
    &[
        works("name", TEXT),
        works("namespace", TEXT),
        works("labels", TEXT_MAP),
        works("annotations", TEXT_MAP),
        never("generateName", TEXT, "the name of a pod is how its manifest is known; write `name`"),
        never(
            "ownerReferences",
            Shape::List(&Shape::Object(&OWNER_REFERENCE)),
            "no controller owns this pod; its manifest does",
        ),
        never("finalizers", TEXTS, "nothing here would ever remove them"),
        ignored("uid", TEXT, "each instance of the pod gets its own"),
        ignored("creationTimestamp", TEXT, BY_SERVER),
        ignored("deletionTimestamp", TEXT, BY_SERVER),
        ignored("deletionGracePeriodSeconds", INT64, BY_SERVER),
        ignored("generation", INT64, BY_SERVER),
        ignored("managedFields", Shape::List(&Shape::Any), BY_SERVER),
        ignored("resourceVersion", TEXT, BY_SERVER),
        ignored("selfLink", TEXT, BY_SERVER),
    ],
);

static OWNER_REFERENCE: Object = object(
    "metadata.ownerReferences[]",
    &[
        part("apiVersion", TEXT),
        part("kind", TEXT),
        part("name", TEXT),
        part("uid", TEXT),
        part("controller", BOOLEAN),
        part("blockOwnerDeletion", BOOLEAN),
    ],
);

pub(in super::super) static POD_SPEC: Object = object(
    "spec",
    &[
        works("containers", Shape::List(&Shape::Object(&CONTAINER))),
        works("initContainers", Shape::List(&Shape::Object(&CONTAINER))),
        works("volumes", Shape::List(&Shape::Object(&VOLUME))),
        works("restartPolicy", Shape::Words(&["Always", "OnFailure", "Never"])),
        works("terminationGracePeriodSeconds", GRACE),
        works("activeDeadlineSeconds", DEADLINE),
        works("hostname", TEXT),
        works("hostNetwork", BOOLEAN),
        works("hostPID", BOOLEAN),
        works("hostIPC", BOOLEAN),
        works("shareProcessNamespace", BOOLEAN),
        works("securityContext", Shape::Object(&POD_SECURITY)),
        works("nodeSelector", TEXT_MAP),
        works("os", Shape::Object(&OS)),
        ignored("affinity", Shape::Object(&AFFINITY), NO_SCHEDULER),
        ignored("automountServiceAccountToken", BOOLEAN, NO_ACCOUNTS),
        works("dnsConfig", Shape::Object(&DNS_CONFIG)),
        works(
            "dnsPolicy",
            Shape::Words(&["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]),
        ),
        usual("enableServiceLinks", BOOLEAN, &["true"], "there are no Services"),
        never(
            "ephemeralContainers",
            Shape::List(&Shape::Object(&EPHEMERAL_CONTAINER)),
            "they are never part of a manifest",
        ),
        works("hostAliases", Shape::List(&Shape::Object(&HOST_ALIAS))),
        only("hostUsers", BOOLEAN, &["true"], ""),
        works("hostnameOverride", TEXT),
        works("imagePullSecrets", Shape::List(&Shape::Object(&LOCAL_REFERENCE))),
        ignored("nodeName", TEXT, NO_SCHEDULER),
        ignored("overhead", QUANTITY_MAP, "there are no runtime classes"),
        usual("preemptionPolicy", TEXT, &["PreemptLowerPriority"], NO_SCHEDULER),
        works("priority", INT32),
        works("priorityClassName", TEXT),
        ignored(
            "readinessGates",
            Shape::List(&Shape::Object(&READINESS_GATE)),
            "there is no controller that would open them",
        ),
        never("resourceClaims", Shape::List(&Shape::Object(&RESOURCE_CLAIM)), NO_CLAIMS),
        works("resources", Shape::Object(&POD_RESOURCES)),
        never("runtimeClassName", TEXT, "there are no runtime classes"),
        usual("schedulerName", TEXT, &["default-scheduler"], NO_SCHEDULER),
        ignored("schedulingGates", Shape::List(&Shape::Object(&SCHEDULING_GATE)), NO_SCHEDULER),
        ignored("schedulingGroup", Shape::Any, NO_SCHEDULER),
        usual("serviceAccount", TEXT, &["default"], NO_ACCOUNTS),
        usual("serviceAccountName", TEXT, &["default"], NO_ACCOUNTS),
        works("setHostnameAsFQDN", BOOLEAN),
        works("subdomain", TEXT),
        ignored("tolerations", Shape::List(&Shape::Object(&TOLERATION)), NO_SCHEDULER),
        ignored(
            "topologySpreadConstraints",
            Shape::List(&Shape::Object(&TOPOLOGY_SPREAD)),
            NO_SCHEDULER,
        ),
        never("workloadRef", Shape::Object(&WORKLOAD_REF), NO_SCHEDULER),
    ],
);

pub(in super::super) static OS: Object =
    object("spec.os", &[works("name", Shape::Words(&["linux"]))]);

pub(in super::super) static DNS_CONFIG: Object = object(
    "spec.dnsConfig",
    &[
        works("nameservers", TEXTS),
        works("searches", TEXTS),
        works("options", Shape::List(&Shape::Object(&DNS_OPTION))),
    ],
);

pub(in super::super) static DNS_OPTION: Object =
    object("spec.dnsConfig.options[]", &[works("name", TEXT), works("value", TEXT)]);

pub(in super::super) static HOST_ALIAS: Object =
    object("spec.hostAliases[]", &[works("ip", TEXT), works("hostnames", TEXTS)]);

pub(in super::super) static LOCAL_REFERENCE: Object =
    object("spec.imagePullSecrets[]", &[works("name", TEXT)]);
