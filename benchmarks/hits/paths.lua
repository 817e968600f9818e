-- wrk asks for the paths of a file, from a place of its own in it: wrk … -s paths.lua URL -- FILE BEFORE AFTER
local requests, at = {}, 0

function init(arguments)
  for vin in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("GET", arguments[2] .. vin .. (arguments[3] or ""))
  end
  at = os.time() * 7919 % #requests
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout
  ))
end
