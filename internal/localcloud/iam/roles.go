package iam

import "strings"

// catalog gives what the predefined roles permit, for the services whose permissions are asked. A pattern may end in
// "*". A role of another service is accepted in a policy and permits nothing here.
func catalog() map[string][]string {
	storageRead := []string{"storage.objects.get", "storage.objects.list"}
	objectUser := append([]string{
		"storage.objects.create", "storage.objects.delete", "storage.objects.update", "storage.multipartUploads.*", "storage.folders.*",
	}, storageRead...)
	secretRead := []string{"secretmanager.secrets.get", "secretmanager.secrets.list", "secretmanager.versions.get", "secretmanager.versions.list"}
	return map[string][]string{
		"roles/owner":  {"*"},
		"roles/editor": {"storage.buckets.create", "storage.buckets.delete", "storage.buckets.list", "secretmanager.secrets.*", "secretmanager.versions.get", "secretmanager.versions.list", "secretmanager.versions.add", "secretmanager.versions.enable", "secretmanager.versions.disable", "secretmanager.versions.destroy", "compute.*", "cloudsql.*", "redis.*", "dns.*", "logging.*", "monitoring.*", "serviceusage.*", "resourcemanager.projects.get", "iam.serviceAccounts.get", "iam.serviceAccounts.list", "iam.serviceAccounts.actAs"},
		"roles/viewer": {"storage.buckets.list", "secretmanager.secrets.get", "secretmanager.secrets.list", "secretmanager.versions.get", "secretmanager.versions.list", "resourcemanager.projects.get", "iam.serviceAccounts.get", "iam.serviceAccounts.list", "serviceusage.services.get", "serviceusage.services.list"},

		"roles/storage.admin":                    {"storage.*"},
		"roles/storage.objectAdmin":              {"storage.objects.*", "storage.multipartUploads.*", "storage.folders.*", "storage.managedFolders.*"},
		"roles/storage.objectUser":               objectUser,
		"roles/storage.objectViewer":             storageRead,
		"roles/storage.objectCreator":            {"storage.objects.create", "storage.folders.create", "storage.multipartUploads.create", "storage.multipartUploads.abort", "storage.multipartUploads.listParts"},
		"roles/storage.bucketViewer":             {"storage.buckets.get", "storage.buckets.list"},
		"roles/storage.folderAdmin":              {"storage.folders.*", "storage.managedFolders.*"},
		"roles/storage.hmacKeyAdmin":             {"storage.hmacKeys.*"},
		"roles/storage.insightsCollectorService": {"storage.buckets.get", "storage.buckets.getObjectInsights"},
		"roles/storage.legacyBucketOwner":        {"storage.buckets.get", "storage.buckets.getIamPolicy", "storage.buckets.setIamPolicy", "storage.buckets.update", "storage.objects.create", "storage.objects.delete", "storage.objects.list", "storage.multipartUploads.*"},
		"roles/storage.legacyBucketReader":       {"storage.buckets.get", "storage.objects.list", "storage.multipartUploads.list"},
		"roles/storage.legacyBucketWriter":       {"storage.buckets.get", "storage.objects.create", "storage.objects.delete", "storage.objects.list", "storage.multipartUploads.*"},
		"roles/storage.legacyObjectOwner":        {"storage.objects.get", "storage.objects.getIamPolicy", "storage.objects.setIamPolicy", "storage.objects.update"},
		"roles/storage.legacyObjectReader":       {"storage.objects.get"},

		"roles/secretmanager.admin":                {"secretmanager.*"},
		"roles/secretmanager.secretAccessor":       {"secretmanager.versions.access"},
		"roles/secretmanager.secretVersionAdder":   {"secretmanager.versions.add"},
		"roles/secretmanager.secretVersionManager": {"secretmanager.versions.add", "secretmanager.versions.destroy", "secretmanager.versions.disable", "secretmanager.versions.enable", "secretmanager.versions.get", "secretmanager.versions.list"},
		"roles/secretmanager.viewer":               append([]string{"secretmanager.secrets.getIamPolicy"}, secretRead...),

		"roles/logging.admin": {"logging.*"}, "roles/logging.bucketWriter": nil, "roles/logging.configWriter": nil, "roles/logging.logWriter": {"logging.logEntries.create"},
		"roles/logging.privateLogViewer": nil, "roles/logging.viewer": {"logging.logEntries.list"}, "roles/logging.viewAccessor": nil, "roles/logging.fieldAccessor": nil, "roles/logging.linkViewer": nil,
		"roles/logging.sqlAlertWriter": nil, "roles/logging.serviceAgent": nil,
		"roles/monitoring.admin": {"monitoring.*"}, "roles/monitoring.editor": nil, "roles/monitoring.viewer": {"monitoring.timeSeries.list"}, "roles/monitoring.metricWriter": {"monitoring.timeSeries.create", "monitoring.metricDescriptors.create"},
		"roles/monitoring.alertPolicyEditor": nil, "roles/monitoring.alertPolicyViewer": nil, "roles/monitoring.dashboardEditor": nil, "roles/monitoring.dashboardViewer": nil,
		"roles/monitoring.notificationChannelEditor": nil, "roles/monitoring.notificationChannelViewer": nil, "roles/monitoring.uptimeCheckConfigEditor": nil,
		"roles/monitoring.uptimeCheckConfigViewer": nil, "roles/monitoring.servicesEditor": nil, "roles/monitoring.servicesViewer": nil, "roles/monitoring.metricsScopesAdmin": nil,
		"roles/monitoring.metricsScopesViewer": nil, "roles/monitoring.snoozeEditor": nil, "roles/monitoring.snoozeViewer": nil, "roles/monitoring.cloudConsoleIncidentEditor": nil,
		"roles/monitoring.cloudConsoleIncidentViewer": nil, "roles/monitoring.notificationServiceAgent": nil,
		"roles/cloudsql.admin": {"cloudsql.*"}, "roles/cloudsql.editor": nil,
		"roles/cloudsql.viewer": {
			"cloudsql.backupRuns.get", "cloudsql.backupRuns.list", "cloudsql.databases.get", "cloudsql.databases.list", "cloudsql.instances.export", "cloudsql.instances.get",
			"cloudsql.instances.list", "cloudsql.instances.listServerCas", "cloudsql.sslCerts.get", "cloudsql.sslCerts.list", "cloudsql.users.list",
		},
		"roles/cloudsql.client":       {"cloudsql.instances.connect", "cloudsql.instances.get"},
		"roles/cloudsql.instanceUser": {"cloudsql.instances.login"}, "roles/cloudsql.serviceAgent": nil, "roles/cloudsql.schemaViewer": nil, "roles/cloudsql.studioUser": nil,
		"roles/redis.admin": {"redis.*"}, "roles/redis.editor": nil, "roles/redis.viewer": {"redis.instances.get", "redis.instances.list", "redis.locations.get", "redis.locations.list", "redis.operations.get", "redis.operations.list"},
		"roles/redis.dbConnectionUser": nil, "roles/redis.serviceAgent": nil,
		"roles/iam.serviceAccountUser": {"iam.serviceAccounts.actAs", "iam.serviceAccounts.get", "iam.serviceAccounts.list"},
	}
}

// listed are the services of which catalog has every role, so that another name is a mistake.
func listed() []string {
	return []string{"storage", "secretmanager", "logging", "monitoring", "cloudsql", "redis"}
}

func matches(pattern, permission string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(permission, prefix)
	}
	return pattern == permission
}
