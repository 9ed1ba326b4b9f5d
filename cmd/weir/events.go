package main

import (
	"context"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"

	"github.com/weir-project/weir/endpoints"
)

// newRecorder returns what sends events to the API server until ctx ends.
func newRecorder(ctx context.Context, client kubernetes.Interface) (events.EventRecorder, error) {
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, broadcaster.Shutdown)
	return broadcaster.NewRecorder(scheme.Scheme, "weir"), nil
}

// problemEvent returns what makes an event of a problem, on the object that has it.
func problemEvent(recorder events.EventRecorder) func(endpoints.Problem) {
	return func(p endpoints.Problem) {
		recorder.Eventf(reference(p), nil, v1.EventTypeWarning, "WeirIgnores", "Serve", "%s: %s", p.Field, p.Reason)
	}
}

// reference says which object an event is about.
func reference(p endpoints.Problem) runtime.Object {
	version := v1.SchemeGroupVersion.String()
	if p.Kind == "EndpointSlice" {
		version = discoveryv1.SchemeGroupVersion.String()
	}
	return &v1.ObjectReference{APIVersion: version, Kind: p.Kind, Namespace: p.Object.Namespace, Name: p.Object.Name, UID: types.UID(p.UID)}
}
