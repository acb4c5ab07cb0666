//! Volumes and their sources.

use super::container::{FIELD_REF, RESOURCE_FIELD_REF};
use super::scheduling::LABEL_SELECTOR;
use super::*;

const NO_DISK: &str = "Roost has no driver for this kind of storage; mount it and use `hostPath`";
const NO_AUTHORITY: &str = "no authority signs certificates here; use a Secret with them";
const ITEMS: Shape = Shape::List(&Shape::Object(&KEY_TO_PATH));
const REFERENCE: Shape = Shape::Object(&SECRET_REF);

pub(in super::super) static VOLUME: Object = object(
    "spec.volumes[]",
    &[
        works("name", TEXT),
        works("emptyDir", Shape::Object(&EMPTY_DIR)),
        works("hostPath", Shape::Object(&HOST_PATH)),
        works("configMap", Shape::Object(&CONFIG_MAP)),
        later("csi", Shape::Object(&CSI)),
        works("downwardAPI", Shape::Object(&DOWNWARD)),
        works("image", Shape::Object(&IMAGE)),
        later("nfs", Shape::Object(&NFS)),
        works("persistentVolumeClaim", Shape::Object(&CLAIM)),
        works("projected", Shape::Object(&PROJECTED)),
        works("secret", Shape::Object(&SECRET)),
        never("awsElasticBlockStore", Shape::Object(&AWS), NO_DISK),
        never("azureDisk", Shape::Object(&AZURE_DISK), NO_DISK),
        never("azureFile", Shape::Object(&AZURE_FILE), NO_DISK),
        never("cephfs", Shape::Object(&CEPHFS), NO_DISK),
        never("cinder", Shape::Object(&CINDER), NO_DISK),
        never("ephemeral", Shape::Object(&EPHEMERAL), NO_DISK),
        never("fc", Shape::Object(&FC), NO_DISK),
        never("flexVolume", Shape::Object(&FLEX), NO_DISK),
        never("flocker", Shape::Object(&FLOCKER), NO_DISK),
        never("gcePersistentDisk", Shape::Object(&GCE), NO_DISK),
        never("gitRepo", Shape::Object(&GIT_REPO), "Kubernetes took it out for its security holes"),
        never("glusterfs", Shape::Object(&GLUSTERFS), NO_DISK),
        never("iscsi", Shape::Object(&ISCSI), NO_DISK),
        never("photonPersistentDisk", Shape::Object(&PHOTON), NO_DISK),
        never("portworxVolume", Shape::Object(&PORTWORX), NO_DISK),
        never("quobyte", Shape::Object(&QUOBYTE), NO_DISK),
        never("rbd", Shape::Object(&RBD), NO_DISK),
        never("scaleIO", Shape::Object(&SCALE_IO), NO_DISK),
        never("storageos", Shape::Object(&STORAGE_OS), NO_DISK),
        never("vsphereVolume", Shape::Object(&VSPHERE), NO_DISK),
    ],
);

pub(in super::super) static EMPTY_DIR: Object = object(
    "spec.volumes[].emptyDir",
    &[works("medium", Shape::Words(&["", "Memory"])), works("sizeLimit", QUANTITY)],
);

pub(in super::super) static HOST_PATH: Object = object(
    "spec.volumes[].hostPath",
    &[
        works("path", TEXT),
        works(
            "type",
            Shape::Words(&[
                "",
                "DirectoryOrCreate",
                "Directory",
                "FileOrCreate",
                "File",
                "Socket",
                "CharDevice",
                "BlockDevice",
            ]),
        ),
    ],
);

pub(in super::super) static CONFIG_MAP: Object = object(
    "spec.volumes[].configMap",
    &[
        works("name", TEXT),
        works("items", ITEMS),
        works("defaultMode", MODE),
        works("optional", BOOLEAN),
    ],
);

pub(in super::super) static SECRET: Object = object(
    "spec.volumes[].secret",
    &[
        works("secretName", TEXT),
        works("items", ITEMS),
        works("defaultMode", MODE),
        works("optional", BOOLEAN),
    ],
);

pub(in super::super) static KEY_TO_PATH: Object =
    object("….items[]", &[works("key", TEXT), works("path", TEXT), works("mode", MODE)]);

pub(in super::super) static DOWNWARD: Object = object(
    "spec.volumes[].downwardAPI",
    &[works("items", Shape::List(&Shape::Object(&DOWNWARD_ITEM))), works("defaultMode", MODE)],
);

pub(in super::super) static DOWNWARD_ITEM: Object = object(
    "….downwardAPI.items[]",
    &[
        works("path", TEXT),
        works("fieldRef", Shape::Object(&FIELD_REF)),
        works("resourceFieldRef", Shape::Object(&RESOURCE_FIELD_REF)),
        works("mode", MODE),
    ],
);

pub(in super::super) static PROJECTED: Object = object(
    "spec.volumes[].projected",
    &[works("sources", Shape::List(&Shape::Object(&PROJECTION))), works("defaultMode", MODE)],
);

pub(in super::super) static PROJECTION: Object = object(
    "spec.volumes[].projected.sources[]",
    &[
        works("configMap", Shape::Object(&PROJECTED_KEYS)),
        works("secret", Shape::Object(&PROJECTED_KEYS)),
        works("downwardAPI", Shape::Object(&PROJECTED_DOWNWARD)),
        never("serviceAccountToken", Shape::Object(&TOKEN), NO_ACCOUNTS),
        never("clusterTrustBundle", Shape::Object(&TRUST_BUNDLE), NO_AUTHORITY),
        never("podCertificate", Shape::Object(&CERTIFICATE), NO_AUTHORITY),
    ],
);

pub(in super::super) static PROJECTED_KEYS: Object = object(
    "spec.volumes[].projected.sources[].configMap, .secret",
    &[works("name", TEXT), works("items", ITEMS), works("optional", BOOLEAN)],
);

pub(in super::super) static PROJECTED_DOWNWARD: Object = object(
    "spec.volumes[].projected.sources[].downwardAPI",
    &[works("items", Shape::List(&Shape::Object(&DOWNWARD_ITEM)))],
);

static TOKEN: Object = object(
    "spec.volumes[].projected.sources[].serviceAccountToken",
    &[part("audience", TEXT), part("expirationSeconds", INT64), part("path", TEXT)],
);

static TRUST_BUNDLE: Object = object(
    "spec.volumes[].projected.sources[].clusterTrustBundle",
    &[
        part("name", TEXT),
        part("signerName", TEXT),
        part("labelSelector", Shape::Object(&LABEL_SELECTOR)),
        part("optional", BOOLEAN),
        part("path", TEXT),
    ],
);

static CERTIFICATE: Object = object(
    "spec.volumes[].projected.sources[].podCertificate",
    &[
        part("signerName", TEXT),
        part("keyType", TEXT),
        part("maxExpirationSeconds", INT32),
        part("credentialBundlePath", TEXT),
        part("keyPath", TEXT),
        part("certificateChainPath", TEXT),
        part("userAnnotations", TEXT_MAP),
    ],
);

pub(in super::super) static CLAIM: Object = object(
    "spec.volumes[].persistentVolumeClaim",
    &[works("claimName", TEXT), works("readOnly", BOOLEAN)],
);

const ONE_KIND: &str = "every claim is a directory of this node";

pub(in super::super) static CLAIM_DOCUMENT: Object = object(
    "PersistentVolumeClaim",
    &[
        works("apiVersion", Shape::Words(&["v1"])),
        works("kind", Shape::Words(&["PersistentVolumeClaim"])),
        works("metadata", Shape::Object(&METADATA)),
        works("spec", Shape::Object(&CLAIM_DOCUMENT_SPEC)),
        ignored("status", Shape::Any, "it is what a cluster made of the claim"),
    ],
);

pub(in super::super) static CLAIM_DOCUMENT_SPEC: Object = object(
    "PersistentVolumeClaim.spec",
    &[
        works("accessModes", TEXTS),
        works("resources", Shape::Object(&CLAIM_DOCUMENT_RESOURCES)),
        works("volumeMode", Shape::Words(&["Filesystem"])),
        ignored("storageClassName", TEXT, ONE_KIND),
        ignored("volumeName", TEXT, ONE_KIND),
        ignored("volumeAttributesClassName", TEXT, ONE_KIND),
        never("selector", Shape::Object(&LABEL_SELECTOR), ONE_KIND),
        never("dataSource", Shape::Object(&DATA_SOURCE), "a claim begins empty"),
        never("dataSourceRef", Shape::Object(&DATA_SOURCE), "a claim begins empty"),
    ],
);

pub(in super::super) static CLAIM_DOCUMENT_RESOURCES: Object = object(
    "PersistentVolumeClaim.spec.resources",
    &[
        works("requests", Shape::Object(&CLAIM_DOCUMENT_REQUESTS)),
        ignored("limits", QUANTITY_MAP, "the size is not enforced"),
    ],
);

pub(in super::super) static CLAIM_DOCUMENT_REQUESTS: Object =
    object("PersistentVolumeClaim.spec.resources.requests", &[works("storage", QUANTITY)]);

static CSI: Object = object(
    "spec.volumes[].csi",
    &[
        part("driver", TEXT),
        part("readOnly", BOOLEAN),
        part("fsType", TEXT),
        part("volumeAttributes", TEXT_MAP),
        part("nodePublishSecretRef", REFERENCE),
    ],
);

static NFS: Object = object(
    "spec.volumes[].nfs",
    &[part("server", TEXT), part("path", TEXT), part("readOnly", BOOLEAN)],
);

pub(in super::super) static IMAGE: Object = object(
    "spec.volumes[].image",
    &[
        works("reference", TEXT),
        works("pullPolicy", Shape::Words(&["Always", "IfNotPresent", "Never"])),
    ],
);

static SECRET_REF: Object = object("….secretRef", &[part("name", TEXT), part("namespace", TEXT)]);

static AWS: Object = object(
    "spec.volumes[].awsElasticBlockStore",
    &[
        part("volumeID", TEXT),
        part("fsType", TEXT),
        part("partition", INT32),
        part("readOnly", BOOLEAN),
    ],
);

static AZURE_DISK: Object = object(
    "spec.volumes[].azureDisk",
    &[
        part("diskName", TEXT),
        part("diskURI", TEXT),
        part("cachingMode", TEXT),
        part("fsType", TEXT),
        part("readOnly", BOOLEAN),
        part("kind", TEXT),
    ],
);

static AZURE_FILE: Object = object(
    "spec.volumes[].azureFile",
    &[part("secretName", TEXT), part("shareName", TEXT), part("readOnly", BOOLEAN)],
);

static CEPHFS: Object = object(
    "spec.volumes[].cephfs",
    &[
        part("monitors", TEXTS),
        part("path", TEXT),
        part("user", TEXT),
        part("secretFile", TEXT),
        part("secretRef", REFERENCE),
        part("readOnly", BOOLEAN),
    ],
);

static CINDER: Object = object(
    "spec.volumes[].cinder",
    &[
        part("volumeID", TEXT),
        part("fsType", TEXT),
        part("readOnly", BOOLEAN),
        part("secretRef", REFERENCE),
    ],
);

static EPHEMERAL: Object = object(
    "spec.volumes[].ephemeral",
    &[part("volumeClaimTemplate", Shape::Object(&CLAIM_TEMPLATE))],
);

static CLAIM_TEMPLATE: Object = object(
    "spec.volumes[].ephemeral.volumeClaimTemplate",
    &[part("metadata", Shape::Object(&METADATA)), part("spec", Shape::Object(&CLAIM_SPEC))],
);

static CLAIM_SPEC: Object = object(
    "spec.volumes[].ephemeral.volumeClaimTemplate.spec",
    &[
        part("accessModes", TEXTS),
        part("selector", Shape::Object(&LABEL_SELECTOR)),
        part("resources", Shape::Object(&CLAIM_RESOURCES)),
        part("volumeName", TEXT),
        part("storageClassName", TEXT),
        part("volumeMode", TEXT),
        part("dataSource", Shape::Object(&DATA_SOURCE)),
        part("dataSourceRef", Shape::Object(&DATA_SOURCE)),
        part("volumeAttributesClassName", TEXT),
    ],
);

static CLAIM_RESOURCES: Object = object(
    "spec.volumes[].ephemeral.volumeClaimTemplate.spec.resources",
    &[part("limits", QUANTITY_MAP), part("requests", QUANTITY_MAP)],
);

static DATA_SOURCE: Object = object(
    "spec.volumes[].ephemeral.volumeClaimTemplate.spec.dataSource, .dataSourceRef",
    &[part("apiGroup", TEXT), part("kind", TEXT), part("name", TEXT), part("namespace", TEXT)],
);

static FC: Object = object(
    "spec.volumes[].fc",
    &[
        part("targetWWNs", TEXTS),
        part("lun", INT32),
        part("fsType", TEXT),
        part("readOnly", BOOLEAN),
        part("wwids", TEXTS),
    ],
);

static FLEX: Object = object(
    "spec.volumes[].flexVolume",
    &[
        part("driver", TEXT),
        part("fsType", TEXT),
        part("secretRef", REFERENCE),
        part("readOnly", BOOLEAN),
        part("options", TEXT_MAP),
    ],
);

static FLOCKER: Object =
    object("spec.volumes[].flocker", &[part("datasetName", TEXT), part("datasetUUID", TEXT)]);

static GCE: Object = object(
    "spec.volumes[].gcePersistentDisk",
    &[
        part("pdName", TEXT),
        part("fsType", TEXT),
        part("partition", INT32),
        part("readOnly", BOOLEAN),
    ],
);

static GIT_REPO: Object = object(
    "spec.volumes[].gitRepo",
    &[part("repository", TEXT), part("revision", TEXT), part("directory", TEXT)],
);

static GLUSTERFS: Object = object(
    "spec.volumes[].glusterfs",
    &[part("endpoints", TEXT), part("path", TEXT), part("readOnly", BOOLEAN)],
);

static ISCSI: Object = object(
    "spec.volumes[].iscsi",
    &[
        part("targetPortal", TEXT),
        part("iqn", TEXT),
        part("lun", INT32),
        part("iscsiInterface", TEXT),
        part("fsType", TEXT),
        part("readOnly", BOOLEAN),
        part("portals", TEXTS),
        part("chapAuthDiscovery", BOOLEAN),
        part("chapAuthSession", BOOLEAN),
        part("secretRef", REFERENCE),
        part("initiatorName", TEXT),
    ],
);

static PHOTON: Object =
    object("spec.volumes[].photonPersistentDisk", &[part("pdID", TEXT), part("fsType", TEXT)]);

static PORTWORX: Object = object(
    "spec.volumes[].portworxVolume",
    &[part("volumeID", TEXT), part("fsType", TEXT), part("readOnly", BOOLEAN)],
);

static QUOBYTE: Object = object(
    "spec.volumes[].quobyte",
    &[
        part("registry", TEXT),
        part("volume", TEXT),
        part("readOnly", BOOLEAN),
        part("user", TEXT),
        part("group", TEXT),
        part("tenant", TEXT),
    ],
);

static RBD: Object = object(
    "spec.volumes[].rbd",
    &[
        part("monitors", TEXTS),
        part("image", TEXT),
        part("fsType", TEXT),
        part("pool", TEXT),
        part("user", TEXT),
        part("keyring", TEXT),
        part("secretRef", REFERENCE),
        part("readOnly", BOOLEAN),
    ],
);

static SCALE_IO: Object = object(
    "spec.volumes[].scaleIO",
    &[
        part("gateway", TEXT),
        part("system", TEXT),
        part("secretRef", REFERENCE),
        part("sslEnabled", BOOLEAN),
        part("protectionDomain", TEXT),
        part("storagePool", TEXT),
        part("storageMode", TEXT),
        part("volumeName", TEXT),
        part("fsType", TEXT),
        part("readOnly", BOOLEAN),
    ],
);

static STORAGE_OS: Object = object(
    "spec.volumes[].storageos",
    &[
        part("volumeName", TEXT),
        part("volumeNamespace", TEXT),
        part("fsType", TEXT),
        part("readOnly", BOOLEAN),
        part("secretRef", REFERENCE),
    ],
);

static VSPHERE: Object = object(
    "spec.volumes[].vsphereVolume",
    &[
        part("volumePath", TEXT),
        part("fsType", TEXT),
        part("storagePolicyName", TEXT),
        part("storagePolicyID", TEXT),
    ],
);
