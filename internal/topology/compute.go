package topology

import (
	_ "embed"
	"encoding/json"
	"fmt"

	"google.golang.org/api/compute/v1"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// SettingsKey is the item of an instance's metadata that holds its settings (dify.Settings).
const SettingsKey = "difyup-config"

// servicePort is where the agent serves Dify.
const servicePort = 1080

// userData makes an Ubuntu machine ready for the agent, and fetches and starts it.
//
//go:embed user-data.yaml
var userData string

// computeLayer gives the group of instances.
func (b *builder) computeLayer(n network, p program, i identity, rights []*resource.Resource) *resource.Resource {
	o := b.spec.Compute
	settings, err := json.Marshal(b.settings())
	if err != nil {
		panic(fmt.Sprintf("topology: %v. This is a bug in difyup.", err))
	}
	metadata := &compute.Metadata{}
	for _, item := range []struct{ key, value string }{
		{"block-project-ssh-keys", "TRUE"},
		{"difyup-agent", "gs://" + p.object.Name},
		{"difyup-agent-sha256", b.agent.SHA256},
		{SettingsKey, string(settings)},
		{"difyup-stack", b.spec.Stack},
		{"enable-guest-attributes", "TRUE"}, // how the agent tells what the instance waits for
		{"enable-oslogin", "TRUE"},
		{"user-data", userData},
	} {
		metadata.Items = append(metadata.Items, &compute.MetadataItems{Key: item.key, Value: &item.value})
	}
	properties := &compute.InstanceProperties{
		Description: b.mark(), MachineType: o.MachineType, Labels: b.labels(), Tags: &compute.Tags{Items: []string{b.name("vm")}},
		// Without an access configuration there is no external address.
		NetworkInterfaces: []*compute.NetworkInterface{{}},
		Disks: []*compute.AttachedDisk{{
			Boot: true, AutoDelete: true, Type: "PERSISTENT",
			InitializeParams: &compute.AttachedDiskInitializeParams{
				SourceImage: "projects/ubuntu-os-cloud/global/images/family/ubuntu-2204-lts", DiskType: o.DiskType, DiskSizeGb: int64(o.DiskGB), Labels: b.labels(),
			},
		}},
		ServiceAccounts:        []*compute.ServiceAccount{{Email: b.accountEmail(), Scopes: []string{"https://www.googleapis.com/auth/cloud-platform"}}},
		Metadata:               metadata,
		Scheduling:             &compute.Scheduling{AutomaticRestart: boolean(true), OnHostMaintenance: "MIGRATE", ProvisioningModel: "STANDARD"},
		ShieldedInstanceConfig: &compute.ShieldedInstanceConfig{EnableSecureBoot: true, EnableVtpm: true, EnableIntegrityMonitoring: true},
	}
	// A template cannot be changed. Its name follows its contents, so that a change makes a new one beside it.
	name := b.name("vm-" + hash([]any{properties, n.vpc.URL(), n.subnetwork.URL()}))
	template := b.add(kind.InstanceTemplates.New(name, b.params(), &compute.InstanceTemplate{
		Name: name, Description: b.mark(), Properties: properties,
	}).Refer("properties.networkInterfaces[0].network", n.vpc, n.vpc.URL()).
		Refer("properties.networkInterfaces[0].subnetwork", n.subnetwork, n.subnetwork.URL()).After(i.account, p.object).After(rights...))

	// It takes longer to call an instance healthy than the load balancer's check does, so that a rolling update takes an
	// old one away only when the new one has got traffic for some time. And a machine that is started again, for which its group waits no
	// longer than this, keeps what it has.
	liveness := b.healthCheck("heal", "/alive", 10, 10, 3, 10)
	var zones []*compute.DistributionPolicyZoneConfiguration
	for _, z := range o.Zones {
		zones = append(zones, &compute.DistributionPolicyZoneConfiguration{Zone: resource.Site + "compute/v1/projects/" + b.spec.Project + "/zones/" + z})
	}
	// Instances need the NAT to reach anything; all else they wait for themselves.
	group := b.add(kind.RegionInstanceGroupManagers.New(b.name("group"), b.params(), &compute.InstanceGroupManager{
		Name: b.name("group"), Description: b.mark(), BaseInstanceName: b.name("vm"), TargetSize: int64(o.Min),
		NamedPorts:          []*compute.NamedPort{{Name: "http", Port: servicePort}},
		DistributionPolicy:  &compute.DistributionPolicy{Zones: zones, TargetShape: "EVEN"},
		AutoHealingPolicies: []*compute.InstanceGroupManagerAutoHealingPolicy{{InitialDelaySec: int64(o.HealingDelaySeconds), ForceSendFields: []string{"InitialDelaySec"}}},
		UpdatePolicy: &compute.InstanceGroupManagerUpdatePolicy{
			Type: "PROACTIVE", MinimalAction: "REPLACE", MostDisruptiveAllowedAction: "REPLACE", ReplacementMethod: "SUBSTITUTE", InstanceRedistributionType: "PROACTIVE",
			MaxSurge:       &compute.FixedOrPercent{Fixed: int64(o.MaxSurge), ForceSendFields: []string{"Fixed"}},
			MaxUnavailable: &compute.FixedOrPercent{Fixed: int64(o.MaxUnavailable), ForceSendFields: []string{"Fixed"}},
		},
		InstanceLifecyclePolicy: &compute.InstanceGroupManagerInstanceLifecyclePolicy{DefaultActionOnFailure: "REPAIR", ForceUpdateOnRepair: "YES"},
	}).Refer("versions[0].instanceTemplate", template, template.URL()).
		Refer("autoHealingPolicies[0].healthCheck", liveness, liveness.URL()).After(n.router))
	b.add(kind.RegionAutoscalers.New(b.name("autoscaler"), b.params(), &compute.Autoscaler{
		Name: b.name("autoscaler"), Description: b.mark(),
		AutoscalingPolicy: &compute.AutoscalingPolicy{
			MinNumReplicas: int64(o.Min), MaxNumReplicas: int64(o.Max), CoolDownPeriodSec: int64(o.CooldownSeconds), Mode: "ON",
			CpuUtilization:           &compute.AutoscalingPolicyCpuUtilization{UtilizationTarget: o.CPUTarget, PredictiveMethod: "NONE"},
			CustomMetricUtilizations: b.signals(), ForceSendFields: []string{"CustomMetricUtilizations"},
		},
	}).Refer("target", group, group.URL()))
	return group
}

// signals are the metrics that the group is scaled by, besides CPU. The filter names the stack's one series by its resource, which is none of
// an instance: so it counts for the group as a whole.
func (b *builder) signals() []*compute.AutoscalingPolicyCustomMetricUtilization {
	n := b.spec.Compute.Autoscale.QueueLength
	if n == 0 {
		return nil
	}
	return []*compute.AutoscalingPolicyCustomMetricUtilization{{
		Metric:                   dify.QueueLength,
		Filter:                   fmt.Sprintf("resource.type = %q AND resource.labels.namespace = %q AND resource.labels.node_id = %q", dify.QueueResource, dify.QueueNamespace, b.spec.Stack),
		SingleInstanceAssignment: float64(n),
	}}
}
