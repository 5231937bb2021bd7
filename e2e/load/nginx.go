package load

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrNoNginx means that nginx is not installed.
var ErrNoNginx = errors.New("nginx is not installed: apt-get install nginx-light")

// StartNginx runs nginx as a reverse proxy in front of an address, with kept
// connections and without buffers, as streams need it, until stop is called.
func StartNginx(dir, upstream string) (address string, stop func(), err error) {
	binary, err := exec.LookPath("nginx")
	if err != nil {
		return "", nil, ErrNoNginx
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	listens := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return "", nil, err
	}
	config := fmt.Sprintf(`daemon off; pid %[1]s/pid; error_log %[1]s/error.log; worker_processes auto;
events { worker_connections 4096; }
http {
  access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  keepalive_requests 1000000;
  upstream nomad { server %[2]s; keepalive 64; keepalive_requests 1000000; }
  server { listen %[3]s; location / { proxy_pass http://nomad; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_buffering off; } }
}`, dir, strings.TrimPrefix(upstream, "http://"), listens)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return "", nil, err
	}
	cmd := exec.Command(binary, "-c", path, "-p", dir)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	for range 100 {
		if c, err := net.Dial("tcp", listens); err == nil {
			return "http://" + listens, stop, c.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	return "", nil, fmt.Errorf("nginx does not listen at %s", listens)
}
