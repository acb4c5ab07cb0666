//! The fields of Kubernetes' `v1` objects by name, and what becomes of each here.
//!
//! This is how "not supported yet" and "unknown" are told apart, and what the reference of the
//! format is made from. Names are those of the API of Kubernetes 1.36. Objects that are refused
//! as a whole (probes, affinity) have no table.

/// An object: its fields, and where it stands.
#[derive(Debug)]
pub(super) struct Object {
    /// Its path in a Pod, as in `spec.containers[]`; empty for the document.
    pub(super) place: &'static str,
    /// What to say of a field that is not in the table.
    pub(super) unknown: &'static str,
    /// Every field that Kubernetes knows.
    pub(super) fields: &'static [Field],
}

/// A field of an object.
#[derive(Debug)]
pub(super) struct Field {
    /// Its name.
    pub(super) name: &'static str,
    /// What becomes of it.
    pub(super) support: Support,
}

/// What becomes of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Support {
    /// It does what Kubernetes says.
    Works,
    /// It is accepted with a warning, and has no effect.
    Ignored {
        /// Why that is right.
        why: &'static str,
    },
    /// It is refused so far.
    Later {
        /// What to do meanwhile; may be empty.
        help: &'static str,
    },
    /// It is refused for good.
    Never {
        /// Why.
        why: &'static str,
    },
}

impl Object {
    /// The field of that name.
    pub(super) fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

const fn works(name: &'static str) -> Field {
    Field { name, support: Support::Works }
}

const fn ignored(name: &'static str, why: &'static str) -> Field {
    Field { name, support: Support::Ignored { why } }
}

const fn later(name: &'static str) -> Field {
    Field { name, support: Support::Later { help: "" } }
}

const fn later_but(name: &'static str, help: &'static str) -> Field {
    Field { name, support: Support::Later { help } }
}

const fn never(name: &'static str, why: &'static str) -> Field {
    Field { name, support: Support::Never { why } }
}

/// Every table; where a name is unknown in one, the others are looked through.
pub(super) static OBJECTS: &[&Object] = &[
    &POD,
    &METADATA,
    &POD_SPEC,
    &CONTAINER,
    &POD_SECURITY,
    &CONTAINER_SECURITY,
    &ENV_VAR,
    &RESOURCES,
    &RESOURCE_NAMES,
    &VOLUME_MOUNT,
    &PORT,
    &VOLUME,
    &EMPTY_DIR,
    &HOST_PATH,
];

const UNKNOWN: &str = "unknown field";
const BY_SERVER: &str = "an API server wrote it";
const NO_SCHEDULER: &str = "there is one node and no scheduler";
const ONLY_WINDOWS: &str = "it is for Windows";
const NO_CLAIMS: &str = "there are no resource claims; give the container the device's file";
const NO_DISK: &str = "Roost has no driver for this kind of storage; mount it and use `hostPath`";

pub(super) static POD: Object = Object {
    place: "",
    unknown: UNKNOWN,
    fields: &[
        works("apiVersion"),
        works("kind"),
        works("metadata"),
        works("spec"),
        ignored("status", "Roost reports the status itself"),
    ],
};

pub(super) static METADATA: Object = Object {
    place: "metadata",
    unknown: UNKNOWN,
    fields: &[
        works("name"),
        works("namespace"),
        works("labels"),
        works("annotations"),
        never("generateName", "the name of a pod is how its manifest is known; write `name`"),
        never("ownerReferences", "no controller owns this pod; its manifest does"),
        never("finalizers", "nothing here would ever remove them"),
        ignored("uid", "each instance of the pod gets its own"),
        ignored("creationTimestamp", BY_SERVER),
        ignored("deletionTimestamp", BY_SERVER),
        ignored("deletionGracePeriodSeconds", BY_SERVER),
        ignored("generation", BY_SERVER),
        ignored("managedFields", BY_SERVER),
        ignored("resourceVersion", BY_SERVER),
        ignored("selfLink", BY_SERVER),
    ],
};

pub(super) static POD_SPEC: Object = Object {
    place: "spec",
    unknown: UNKNOWN,
    fields: &[
        works("containers"),
        works("volumes"),
        works("restartPolicy"),
        works("terminationGracePeriodSeconds"),
        works("hostname"),
        works("hostNetwork"),
        works("hostPID"),
        works("hostIPC"),
        works("shareProcessNamespace"),
        works("securityContext"),
        works("nodeSelector"),
        later("activeDeadlineSeconds"),
        later("affinity"),
        later_but("automountServiceAccountToken", "there are no service accounts; leave it out"),
        later("dnsConfig"),
        later("dnsPolicy"),
        later_but("enableServiceLinks", "there are no Services; leave it out"),
        never("ephemeralContainers", "they are never part of a manifest"),
        later("hostAliases"),
        later("hostUsers"),
        later("hostnameOverride"),
        later("imagePullSecrets"),
        later("initContainers"),
        later("nodeName"),
        later("os"),
        later("overhead"),
        later("preemptionPolicy"),
        later("priority"),
        later("priorityClassName"),
        later("readinessGates"),
        never("resourceClaims", NO_CLAIMS),
        later_but("resources", "set the resources of each container"),
        never("runtimeClassName", "there are no runtime classes"),
        later_but("schedulerName", NO_SCHEDULER),
        later_but("schedulingGates", NO_SCHEDULER),
        later_but("serviceAccount", "there are no service accounts; leave it out"),
        later_but("serviceAccountName", "there are no service accounts; leave it out"),
        later("setHostnameAsFQDN"),
        later("subdomain"),
        later_but("tolerations", NO_SCHEDULER),
        later_but("topologySpreadConstraints", NO_SCHEDULER),
        never("workloadRef", NO_SCHEDULER),
    ],
};

pub(super) static CONTAINER: Object = Object {
    place: "spec.containers[]",
    unknown: UNKNOWN,
    fields: &[
        works("name"),
        works("command"),
        works("args"),
        works("env"),
        works("workingDir"),
        works("resources"),
        works("securityContext"),
        works("volumeMounts"),
        works("ports"),
        later("envFrom"),
        later_but("image", "leave it out: the container then sees the host's own files, read-only"),
        later_but("imagePullPolicy", "there are no images yet; leave it out"),
        later("lifecycle"),
        later("livenessProbe"),
        later("readinessProbe"),
        later("resizePolicy"),
        later_but("restartPolicy", "`spec.restartPolicy` counts for all containers"),
        later("restartPolicyRules"),
        later("startupProbe"),
        later("stdin"),
        later("stdinOnce"),
        later("terminationMessagePath"),
        later("terminationMessagePolicy"),
        later("tty"),
        never("volumeDevices", "there are no block volumes; use `hostPath` of type BlockDevice"),
    ],
};

pub(super) static POD_SECURITY: Object = Object {
    place: "spec.securityContext",
    unknown: UNKNOWN,
    fields: &[
        works("runAsUser"),
        works("runAsGroup"),
        later("appArmorProfile"),
        later("fsGroup"),
        later("fsGroupChangePolicy"),
        later_but("runAsNonRoot", "set `runAsUser`"),
        later("seLinuxChangePolicy"),
        later("seLinuxOptions"),
        later_but("seccompProfile", "the default filter is always on"),
        later("supplementalGroups"),
        later("supplementalGroupsPolicy"),
        later("sysctls"),
        never("windowsOptions", ONLY_WINDOWS),
    ],
};

pub(super) static CONTAINER_SECURITY: Object = Object {
    place: "spec.containers[].securityContext",
    unknown: UNKNOWN,
    fields: &[
        works("runAsUser"),
        works("runAsGroup"),
        works("readOnlyRootFilesystem"),
        later_but("allowPrivilegeEscalation", "no container can gain privileges; leave it out"),
        later("appArmorProfile"),
        later("capabilities"),
        later("privileged"),
        later("procMount"),
        later_but("runAsNonRoot", "set `runAsUser`"),
        later("seLinuxOptions"),
        later_but("seccompProfile", "the default filter is always on"),
        never("windowsOptions", ONLY_WINDOWS),
    ],
};

pub(super) static ENV_VAR: Object = Object {
    place: "spec.containers[].env[]",
    unknown: UNKNOWN,
    fields: &[works("name"), works("value"), later("valueFrom")],
};

pub(super) static RESOURCES: Object = Object {
    place: "spec.containers[].resources",
    unknown: UNKNOWN,
    fields: &[works("limits"), works("requests"), never("claims", NO_CLAIMS)],
};

/// The keys of `limits` and `requests`.
pub(super) static RESOURCE_NAMES: Object = Object {
    place: "spec.containers[].resources.limits",
    unknown: "not supported: only `cpu` and `memory` can be limited",
    fields: &[works("cpu"), works("memory"), later("ephemeral-storage")],
};

pub(super) static VOLUME_MOUNT: Object = Object {
    place: "spec.containers[].volumeMounts[]",
    unknown: UNKNOWN,
    fields: &[
        works("name"),
        works("mountPath"),
        works("readOnly"),
        later("mountPropagation"),
        later("recursiveReadOnly"),
        later("subPath"),
        later("subPathExpr"),
    ],
};

pub(super) static PORT: Object = Object {
    place: "spec.containers[].ports[]",
    unknown: UNKNOWN,
    fields: &[
        works("name"),
        works("containerPort"),
        works("hostPort"),
        works("hostIP"),
        works("protocol"),
    ],
};

pub(super) static VOLUME: Object = Object {
    place: "spec.volumes[]",
    unknown: UNKNOWN,
    fields: &[
        works("name"),
        works("emptyDir"),
        works("hostPath"),
        later("configMap"),
        later("csi"),
        later("downwardAPI"),
        later("image"),
        later("nfs"),
        later_but("persistentVolumeClaim", "use `hostPath` with `type: DirectoryOrCreate`"),
        later("projected"),
        later("secret"),
        never("awsElasticBlockStore", NO_DISK),
        never("azureDisk", NO_DISK),
        never("azureFile", NO_DISK),
        never("cephfs", NO_DISK),
        never("cinder", NO_DISK),
        never("ephemeral", NO_DISK),
        never("fc", NO_DISK),
        never("flexVolume", NO_DISK),
        never("flocker", NO_DISK),
        never("gcePersistentDisk", NO_DISK),
        never("gitRepo", "Kubernetes took it out for its security holes"),
        never("glusterfs", NO_DISK),
        never("iscsi", NO_DISK),
        never("photonPersistentDisk", NO_DISK),
        never("portworxVolume", NO_DISK),
        never("quobyte", NO_DISK),
        never("rbd", NO_DISK),
        never("scaleIO", NO_DISK),
        never("storageos", NO_DISK),
        never("vsphereVolume", NO_DISK),
    ],
};

pub(super) static EMPTY_DIR: Object = Object {
    place: "spec.volumes[].emptyDir",
    unknown: UNKNOWN,
    fields: &[works("medium"), works("sizeLimit")],
};

pub(super) static HOST_PATH: Object = Object {
    place: "spec.volumes[].hostPath",
    unknown: UNKNOWN,
    fields: &[works("path"), works("type")],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_every_field_that_works() {
        let reference = include_str!("../../../specs/README.md");
        for field in OBJECTS.iter().flat_map(|object| object.fields) {
            let named = ["`", ".", "|"].iter().any(|before| {
                ["`", ".", "["]
                    .iter()
                    .any(|after| reference.contains(&format!("{before}{}{after}", field.name)))
            });
            assert!(named || !matches!(field.support, Support::Works), "{}", field.name);
        }
    }

    #[test]
    fn no_table_has_a_name_twice() {
        for object in OBJECTS {
            let mut names: Vec<&str> = object.fields.iter().map(|field| field.name).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "{}", object.place);
        }
    }
}
