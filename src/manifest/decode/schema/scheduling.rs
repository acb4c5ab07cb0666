//! What is for a scheduler or for controllers, of which there is none.

use super::*;

const EXPRESSIONS: Shape = Shape::List(&Shape::Object(&EXPRESSION));
const TERMS: Shape = Shape::List(&Shape::Object(&POD_TERM));
const WEIGHTED_TERMS: Shape = Shape::List(&Shape::Object(&WEIGHTED_POD_TERM));
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) static AFFINITY: Object = object(
    "spec.affinity",
    &[
        part("nodeAffinity", Shape::Object(&NODE_AFFINITY)),
        part("podAffinity", Shape::Object(&POD_AFFINITY)),
        part("podAntiAffinity", Shape::Object(&POD_AFFINITY)),
    ],
);

static NODE_AFFINITY: Object = object(
    "spec.affinity.nodeAffinity",
    &[
        part(REQUIRED, Shape::Object(&NODE_TERMS)),
        part(PREFERRED, Shape::List(&Shape::Object(&NODE_PREFERENCE))),
    ],
);

static NODE_TERMS: Object = object(
    "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution",
    &[part("nodeSelectorTerms", Shape::List(&Shape::Object(&NODE_TERM)))],
);

static NODE_PREFERENCE: Object = object(
    "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[]",
    &[part("weight", INT32), part("preference", Shape::Object(&NODE_TERM))],
);

static NODE_TERM: Object = object(
    "spec.affinity.nodeAffinity.….nodeSelectorTerms[]",
    &[part("matchExpressions", EXPRESSIONS), part("matchFields", EXPRESSIONS)],
);

static EXPRESSION: Object = object(
    "….matchExpressions[]",
    &[part("key", TEXT), part("operator", TEXT), part("values", TEXTS)],
);

static POD_AFFINITY: Object = object(
    "spec.affinity.podAffinity, .podAntiAffinity",
    &[part(REQUIRED, TERMS), part(PREFERRED, WEIGHTED_TERMS)],
);

static WEIGHTED_POD_TERM: Object = object(
    "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[]",
    &[part("weight", INT32), part("podAffinityTerm", Shape::Object(&POD_TERM))],
);

static POD_TERM: Object = object(
    "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[]",
    &[
        part("labelSelector", Shape::Object(&LABEL_SELECTOR)),
        part("namespaceSelector", Shape::Object(&LABEL_SELECTOR)),
        part("namespaces", TEXTS),
        part("topologyKey", TEXT),
        part("matchLabelKeys", TEXTS),
        part("mismatchLabelKeys", TEXTS),
    ],
);

pub(super) static LABEL_SELECTOR: Object = object(
    "….labelSelector",
    &[part("matchLabels", TEXT_MAP), part("matchExpressions", EXPRESSIONS)],
);

pub(super) static TOLERATION: Object = object(
    "spec.tolerations[]",
    &[
        part("key", TEXT),
        part("operator", TEXT),
        part("value", TEXT),
        part("effect", TEXT),
        part("tolerationSeconds", INT64),
    ],
);

pub(super) static TOPOLOGY_SPREAD: Object = object(
    "spec.topologySpreadConstraints[]",
    &[
        part("maxSkew", INT32),
        part("minDomains", INT32),
        part("topologyKey", TEXT),
        part("whenUnsatisfiable", TEXT),
        part("labelSelector", Shape::Object(&LABEL_SELECTOR)),
        part("matchLabelKeys", TEXTS),
        part("nodeAffinityPolicy", TEXT),
        part("nodeTaintsPolicy", TEXT),
    ],
);

pub(super) static READINESS_GATE: Object =
    object("spec.readinessGates[]", &[part("conditionType", TEXT)]);

pub(super) static SCHEDULING_GATE: Object = object("spec.schedulingGates[]", &[part("name", TEXT)]);

pub(super) static RESOURCE_CLAIM: Object = object(
    "spec.resourceClaims[]",
    &[part("name", TEXT), part("resourceClaimName", TEXT), part("resourceClaimTemplateName", TEXT)],
);

pub(super) static WORKLOAD_REF: Object = object(
    "spec.workloadRef",
    &[part("name", TEXT), part("podGroup", TEXT), part("podGroupReplicaKey", TEXT)],
);
