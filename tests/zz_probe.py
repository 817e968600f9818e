from tests.test_export_http import *
def test_probe(server, cache):
    b, m = bytes_read(server), memory(server)
    with reading(server):
        until(lambda: at_rest(server))
        print('PROBE read', (bytes_read(server)-b)/1e6, 'of', cache.stat().st_size/1e6, 'mem', memory(server)/1e6, (memory(server)-m)/1e6)
    print('out', len(httpx.get(f"{server.url}{EVERYTHING}", timeout=60).content)/1e6, memory(server)/1e6)
